//! Applies a User: claims its name in the metadata store, then sets the finalizer, then writes its
//! rows and its Secret. Every step is idempotent, and the process may end between any two: the next
//! reconciliation does the rest. At rest nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use kube::Api;
use streamhouse_metadata::{
    ClientQuotaRow, Error, MetadataStore, ScramCredentialId, ScramCredentialRow, UnownedRows, UserRows,
};

use super::{
    client_files::{ClientAccess, ClientAddress, client_files, client_mechanism},
    client_secret::{ObservedSecret, read_client_secret, read_password, write_client_secret},
    credentials::{VerifiedCredentials, credentials_of, generate_password},
    error::{UserError, UserProblem, with_timeout},
    finalize,
    owner::UserOwner,
    validate::{DesiredScram, DesiredUser},
};
use crate::{
    context::OperatorContext,
    crd::{AdoptionPolicy, ConditionReason, DeletionPolicy, StreamHouseCluster, User},
};

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct UserChanges {
    /// Whether the name was claimed.
    pub(super) claimed: bool,
    /// Whether there were credentials or quotas that were made by hand.
    pub(super) adopted: bool,
    /// Whether verifiers of a password were replaced.
    pub(super) credentials: bool,
    /// Whether access control lists were changed.
    pub(super) acls: bool,
    /// Whether quotas were changed.
    pub(super) quotas: bool,
    /// Whether the Secret was written.
    pub(super) secret: bool,
}

impl UserChanges {
    /// Returns whether nothing was changed.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what was changed in one line.
    pub(super) fn summary(&self) -> String {
        let parts = [
            (self.credentials, "credentials"),
            (self.acls, "access control lists"),
            (self.quotas, "quotas"),
            (self.secret, "Secret"),
        ];
        let changed = parts.iter().filter(|(changed, _)| *changed);
        changed.map(|(_, what)| *what).collect::<Vec<_>>().join(", ")
    }
}

/// Applies one User.
pub(super) struct UserApplication<'a> {
    pub(super) context: &'a OperatorContext,
    pub(super) store: &'a dyn MetadataStore,
    pub(super) cluster: &'a StreamHouseCluster,
    pub(super) user: &'a User,
    pub(super) owner: &'a UserOwner,
    pub(super) desired: &'a DesiredUser,
    pub(super) verified: &'a VerifiedCredentials,
}

/// The password of a user and the Secret for clients.
struct PasswordSource {
    password: String,
    secret: ObservedSecret,
}

impl UserApplication<'_> {
    /// Applies the User. `stored` are the rows that it owns, `None` if it owns no user yet.
    pub(super) async fn apply(&self, stored: Option<UserRows>) -> Result<UserChanges, UserError> {
        let mut changes = UserChanges::default();
        // Before the claim: a User whose Secret cannot be written does not occupy the name.
        let source = match &self.desired.scram {
            Some(scram) => Some(self.password(scram).await?),
            None => None,
        };
        let is_first = stored.is_none();
        let stored = match stored {
            Some(stored) => stored,
            None => {
                changes.claimed = true;
                changes.adopted = self.claim().await?;
                UserRows {
                    user_name: self.desired.name.clone(),
                    ..UserRows::default()
                }
            }
        };
        let held = self.user.spec.deletion_policy == DeletionPolicy::Delete;
        finalize::set_finalizer(self.context, self.user, held).await?;
        let wanted = self.rows(source.as_ref(), &stored).await?;
        // A new user has a password before it is told to clients; clients of a present one learn of
        // a new password first. Either way a crash in between is made good.
        if let (Some(source), false) = (&source, is_first) {
            changes.secret = self.write_secret(source).await?;
        }
        self.write_rows(&stored, &wanted, &mut changes).await?;
        if let (Some(source), true) = (&source, is_first) {
            changes.secret = self.write_secret(source).await?;
        }
        Ok(changes)
    }

    /// Returns the metadata store for a call, which is counted.
    fn store(&self, call: &str) -> &dyn MetadataStore {
        let queries = &self.context.metrics.metadata_queries;
        queries.with_label_values(&[call]).inc();
        self.store
    }

    async fn password(&self, scram: &DesiredScram) -> Result<PasswordSource, UserError> {
        let secret = read_client_secret(self.context, self.user, &scram.secret_name).await?;
        let password = match &scram.password {
            Some((name, key)) => read_password(self.context, self.user, name, key).await?,
            None => secret
                .password()
                .unwrap_or_else(|| generate_password(&*self.context.entropy)),
        };
        Ok(PasswordSource { password, secret })
    }

    /// Claims the name of the user and returns whether a user that was made by hand will be
    /// adopted.
    async fn claim(&self) -> Result<bool, UserError> {
        let claim = UserRows {
            user_name: self.desired.name.clone(),
            ..UserRows::default()
        };
        // The rows of an earlier User of this name, whose uid tells that it is gone.
        for key in self
            .store("list_owned_users")
            .list_owned_users(&self.owner.prefix())
            .await?
            .keys()
            .filter(|key| **key != self.owner.key())
        {
            self.store("delete_user").delete_user(key).await?;
        }
        match self
            .store("apply_user")
            .apply_user(&self.owner.key(), &claim, UnownedRows::Refuse)
            .await
        {
            Ok(_) => Ok(false),
            Err(Error::OwnerConflict { what, owner }) if owner.is_empty() => match self.desired.adopt {
                AdoptionPolicy::IfExists => Ok(true),
                AdoptionPolicy::Never => Err(already_exists(&what).into()),
            },
            Err(Error::OwnerConflict { what, owner }) => self.claim_from(&claim, &what, &owner).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Claims a name that has an owner, if that is a User that no longer exists.
    async fn claim_from(&self, claim: &UserRows, what: &str, owner: &str) -> Result<bool, UserError> {
        let conflict = |owner: &str| {
            let message = format!("{what} is managed by {owner}: delete one of the two Users");
            UserError::from(UserProblem::new(ConditionReason::OwnershipConflict, message))
        };
        let Some(other) = UserOwner::parse(owner) else {
            return Err(conflict(owner));
        };
        if !self.context.scope.contains(&other.namespace) || self.exists(&other).await? {
            return Err(conflict(&other.to_string()));
        }
        if self.desired.adopt == AdoptionPolicy::Never {
            let message = format!(
                "{what} was managed by {other}, which no longer exists: set spec.adopt to IfExists to manage the user, or choose another name"
            );
            return Err(UserProblem::new(ConditionReason::AlreadyExists, message).into());
        }
        tracing::info!(user = %claim.user_name, owner = %other, "the User no longer exists: taking its rows over");
        self.store("delete_user").delete_user(owner).await?;
        self.store("apply_user")
            .apply_user(&self.owner.key(), claim, UnownedRows::Refuse)
            .await?;
        Ok(true)
    }

    /// Asks the API server itself whether a User exists: a watch may lag.
    async fn exists(&self, owner: &UserOwner) -> Result<bool, UserError> {
        let users: Api<User> = Api::namespaced(self.context.client.clone(), &owner.namespace);
        let found = with_timeout(users.get_metadata_opt(&owner.resource)).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)))
    }

    /// Returns the rows that the User should own.
    async fn rows(&self, source: Option<&PasswordSource>, stored: &UserRows) -> Result<UserRows, UserError> {
        let desired = self.desired;
        let credentials = match (&desired.scram, source) {
            (Some(scram), Some(source)) => self.credentials(scram, source, stored).await?,
            _ => Vec::new(),
        };
        Ok(UserRows {
            user_name: desired.name.clone(),
            credentials,
            acls: desired.acls.clone(),
            quotas: desired.quotas.clone(),
        })
    }

    async fn credentials(
        &self,
        scram: &DesiredScram,
        source: &PasswordSource,
        stored: &UserRows,
    ) -> Result<Vec<ScramCredentialRow>, UserError> {
        let (uid, password) = (self.user.resource_uid(), source.password.as_str());
        let mechanisms = stored.credentials.iter().map(|row| row.mechanism.as_str());
        let wanted = scram.mechanisms.iter().map(|mechanism| mechanism.name());
        if mechanisms.eq(wanted) && self.verified.are_known(uid, password, &stored.credentials) {
            return Ok(stored.credentials.clone());
        }
        let rows = credentials_of(
            self.desired.name.clone(),
            source.password.clone(),
            scram.mechanisms.clone(),
            stored.credentials.clone(),
            self.context.entropy.clone(),
        )
        .await
        .map_err(UserProblem::invalid_spec)?;
        self.verified.remember(uid, password, &rows);
        Ok(rows)
    }

    async fn write_rows(
        &self,
        stored: &UserRows,
        wanted: &UserRows,
        changes: &mut UserChanges,
    ) -> Result<(), UserError> {
        compare_rows(stored, wanted, changes);
        if !(changes.adopted || changes.credentials || changes.acls || changes.quotas) {
            return Ok(());
        }
        let unowned = match self.desired.adopt {
            AdoptionPolicy::IfExists => UnownedRows::Adopt,
            AdoptionPolicy::Never => UnownedRows::Refuse,
        };
        let applied = self
            .store("apply_user")
            .apply_user(&self.owner.key(), wanted, unowned)
            .await;
        match applied {
            Ok(_) => Ok(()),
            Err(Error::OwnerConflict { what, owner }) if owner.is_empty() => {
                Err(already_exists(&what).into())
            }
            Err(Error::OwnerConflict { what, owner }) => {
                let other = UserOwner::parse(&owner).map_or(owner, |other| other.to_string());
                let message = format!("{what} is managed by {other}: delete one of the two Users");
                Err(UserProblem::new(ConditionReason::OwnershipConflict, message).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn write_secret(&self, source: &PasswordSource) -> Result<bool, UserError> {
        let Some(scram) = &self.desired.scram else {
            return Ok(false);
        };
        let mechanisms = scram.mechanisms.iter().map(|mechanism| mechanism.name());
        let access = ClientAccess {
            user_name: self.desired.name.clone(),
            password: source.password.clone(),
            mechanism: client_mechanism(self.cluster, mechanisms),
            address: ClientAddress::of(self.cluster),
        };
        let content = client_files(&access);
        write_client_secret(
            self.context,
            self.user,
            &scram.secret_name,
            &content,
            &source.secret,
        )
        .await
    }
}

fn already_exists(what: &str) -> UserProblem {
    UserProblem::new(
        ConditionReason::AlreadyExists,
        format!(
            "{what} was made by hand and spec.adopt is Never: set it to IfExists to manage the user, or choose another name"
        ),
    )
}

/// Notes what has to change for the stored rows to be the wanted ones.
pub(super) fn compare_rows(stored: &UserRows, wanted: &UserRows, changes: &mut UserChanges) {
    let credentials = |rows: &UserRows| -> BTreeMap<ScramCredentialId, ScramCredentialRow> {
        let rows = rows.credentials.iter();
        rows.map(|row| (row.id(), row.clone())).collect()
    };
    let quotas = |rows: &UserRows| -> Vec<ClientQuotaRow> {
        let mut quotas = rows.quotas.clone();
        quotas.sort_by(|a, b| a.id.cmp(&b.id));
        quotas
    };
    let acls = |rows: &UserRows| rows.acls.iter().cloned().collect::<BTreeSet<_>>();
    changes.credentials = credentials(stored) != credentials(wanted);
    changes.acls = acls(stored) != acls(wanted);
    changes.quotas = quotas(stored) != quotas(wanted);
}

#[cfg(test)]
mod tests;
