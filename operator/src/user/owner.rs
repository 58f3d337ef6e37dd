//! The identity of a User in the metadata store, where rows have an owner: `k8s:`, namespace, name
//! and uid. The uid tells a User from an earlier one of the same name.

use std::fmt;

use crate::crd::User;

/// Marks owners in Kubernetes.
const PREFIX: &str = "k8s:";

/// The owner of the rows of a User.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserOwner {
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) uid: String,
}

impl UserOwner {
    /// Returns the owner of the User's rows.
    pub(super) fn of(user: &User) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            namespace: text(&user.metadata.namespace),
            resource: text(&user.metadata.name),
            uid: text(&user.metadata.uid),
        }
    }

    /// Parses an owner; `None` if it is not in Kubernetes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.split('/').map(str::to_owned);
        let owner = Self {
            namespace: parts.next()?,
            resource: parts.next()?,
            uid: parts.next()?,
        };
        parts.next().is_none().then_some(owner)
    }

    /// Returns the text in the metadata store.
    pub(super) fn key(&self) -> String {
        format!("{PREFIX}{}/{}/{}", self.namespace, self.resource, self.uid)
    }

    /// Returns whether both are Users of one namespace and name, one earlier than the other.
    pub(super) fn has_name_of(&self, other: &Self) -> bool {
        (&self.namespace, &self.resource) == (&other.namespace, &other.resource)
    }
}

impl fmt::Display for UserOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let owner = UserOwner {
            namespace: "shop".to_owned(),
            resource: "orders.writer".to_owned(),
            uid: "6f2c".to_owned(),
        };
        assert_eq!(owner.key(), "k8s:shop/orders.writer/6f2c");
        assert_eq!(UserOwner::parse(&owner.key()), Some(owner));
        for other in ["", "k8s:shop/orders", "k8s:a/b/c/d", "terraform:a/b/c"] {
            assert_eq!(UserOwner::parse(other), None, "{other}");
        }
    }
}
