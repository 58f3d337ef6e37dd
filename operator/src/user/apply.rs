//! Applies a User: claims its name in the metadata store with all rows, then sets the finalizer,
//! then writes its Secret. Every step is idempotent, and the process may end between any two: the
//! next reconciliation does the rest. At rest nothing is written.

use std::{cmp::Ordering, collections::BTreeMap};

use streamhouse_metadata::{
    AclRow, ClientQuotaRow, Error, MetadataStore, ScramCredentialRow, UnownedRows, UserRows,
};

use super::{
    authorities::read_authorities,
    client_files::{
        AUTHORITIES_KEY, ClientAccess, ClientAddress, STREAMHOUSE_AUTHORITIES_KEY, client_files,
        client_mechanism,
    },
    client_secret::{ObservedSecret, read_client_secret, read_password, write_client_secret},
    credentials::{VerifiedCredentials, credentials_of, generate_password},
    error::{UserError, UserProblem},
    owner::UserOwner,
    validate::{DesiredScram, DesiredUser},
};
use crate::{
    api_calls::exists,
    context::OperatorContext,
    crd::{AdoptionPolicy, ConditionReason, DeletionPolicy, StreamHouseCluster, User},
    finalizer::set_finalizer,
};

/// Number of conflicts with other owners that are resolved in a row: of the user, of each of its
/// quotas, and with what was made by hand.
const MAX_CONFLICTS: usize = 6;

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

/// How a user authenticates, with its password and the Secret for clients.
pub(super) struct PasswordSource<'a> {
    pub(super) scram: &'a DesiredScram,
    password: String,
    /// As it is.
    pub(super) secret: ObservedSecret,
    /// As it should be.
    pub(super) content: BTreeMap<&'static str, String>,
}

impl<'a> UserApplication<'a> {
    /// Applies the User. `stored` are the rows that it owns, `None` if it owns no user yet.
    pub(super) async fn apply(&self, stored: Option<UserRows>) -> Result<UserChanges, UserError> {
        // Before the claim: a User whose Secret cannot be written does not occupy the name.
        let source = match &self.desired.scram {
            Some(scram) => Some(self.password(scram).await?),
            None => None,
        };
        match stored {
            Some(stored) => self.update(&stored, source.as_ref()).await,
            None => self.create(source.as_ref()).await,
        }
    }

    /// Claims the name together with all rows. A new user has a password before it is told to
    /// clients.
    async fn create(&self, source: Option<&PasswordSource<'_>>) -> Result<UserChanges, UserError> {
        let none = UserRows {
            user_name: self.desired.name.clone(),
            ..UserRows::default()
        };
        let wanted = self.rows(source, &none).await?;
        let adopted = match self.claim(&wanted).await {
            Err(UserError::Problem(problem)) => {
                // It owns nothing, so its deletion need not wait for the operator.
                self.set_finalizer(false).await?;
                return Err(problem.into());
            }
            claimed => claimed?,
        };
        let mut changes = UserChanges {
            claimed: true,
            adopted,
            ..UserChanges::default()
        };
        compare_rows(&none, &wanted, &mut changes);
        self.hold().await?;
        if let Some(source) = source {
            changes.secret = self.write_secret(source).await?;
        }
        Ok(changes)
    }

    /// Changes what is not as it should be. Clients that have a password learn of a new one before
    /// it replaces the present one. While no client can have one, because a crash has ended the
    /// creation, it is replaced first, so that the Secret never has a password that is refused.
    async fn update(
        &self,
        stored: &UserRows,
        source: Option<&PasswordSource<'_>>,
    ) -> Result<UserChanges, UserError> {
        self.hold().await?;
        let wanted = self.rows(source, stored).await?;
        let mut changes = UserChanges::default();
        compare_rows(stored, &wanted, &mut changes);
        let Some(source) = source else {
            self.write_changed_rows(&wanted, &changes).await?;
            return Ok(changes);
        };
        if source.secret.is_absent() && !has_been_published(self.user) {
            self.write_changed_rows(&wanted, &changes).await?;
            changes.secret = self.write_secret(source).await?;
        } else {
            changes.secret = self.write_secret(source).await?;
            self.write_changed_rows(&wanted, &changes).await?;
        }
        Ok(changes)
    }

    async fn write_changed_rows(&self, wanted: &UserRows, changes: &UserChanges) -> Result<(), UserError> {
        if changes.credentials || changes.acls || changes.quotas {
            let unowned = match self.desired.adopt {
                AdoptionPolicy::IfExists => UnownedRows::Adopt,
                AdoptionPolicy::Never => UnownedRows::Refuse,
            };
            self.write_rows(wanted, unowned).await?;
        }
        Ok(())
    }

    /// Sets the finalizer of a User that owns its rows.
    async fn hold(&self) -> Result<(), UserError> {
        let held = self.user.spec.deletion_policy == DeletionPolicy::Delete;
        self.set_finalizer(held).await
    }

    async fn set_finalizer(&self, held: bool) -> Result<(), UserError> {
        let set = set_finalizer(self.context, self.user, held).await;
        set.map(drop).map_err(UserError::of_user)
    }

    /// Returns the metadata store for a call, which is counted.
    fn store(&self, call: &str) -> &dyn MetadataStore {
        let queries = &self.context.metrics.metadata_queries;
        queries.with_label_values(&[call]).inc();
        self.store
    }

    /// Returns the password and the content of the Secret for clients.
    pub(super) async fn password(&self, scram: &'a DesiredScram) -> Result<PasswordSource<'a>, UserError> {
        let secret = read_client_secret(self.context, self.user, &scram.secret_name).await?;
        let password = match &scram.password {
            Some((name, key)) => read_password(self.context, self.user, name, key).await?,
            None => secret
                .password()
                .unwrap_or_else(|| generate_password(&*self.context.entropy)),
        };
        let content = self.client_content(scram, &password, &secret).await?;
        Ok(PasswordSource {
            scram,
            password,
            secret,
            content,
        })
    }

    async fn client_content(
        &self,
        scram: &DesiredScram,
        password: &str,
        secret: &ObservedSecret,
    ) -> Result<BTreeMap<&'static str, String>, UserError> {
        let mechanisms = scram.mechanisms.iter().map(|mechanism| mechanism.name());
        let address = ClientAddress::of(self.cluster);
        let certificate = address.certificate.as_deref();
        let authorities = self.authorities(certificate, secret, AUTHORITIES_KEY).await?;
        let certificate = address.streamhouse_certificate.as_deref();
        let streamhouse_authorities = self
            .authorities(certificate, secret, STREAMHOUSE_AUTHORITIES_KEY)
            .await?;
        Ok(client_files(&ClientAccess {
            user_name: self.desired.name.clone(),
            password: password.to_owned(),
            mechanism: client_mechanism(self.cluster, mechanisms),
            address,
            authorities,
            streamhouse_authorities,
        }))
    }

    /// Returns the CA certificates of a listener. While its certificate does not exist, clients
    /// keep those that they have.
    async fn authorities(
        &self,
        certificate: Option<&str>,
        secret: &ObservedSecret,
        key: &str,
    ) -> Result<String, UserError> {
        let Some(certificate) = certificate else {
            return Ok(String::new());
        };
        let namespace = self.user.metadata.namespace.as_deref().unwrap_or_default();
        let found = read_authorities(self.context, namespace, certificate).await?;
        Ok(found.or_else(|| secret.text(key)).unwrap_or_default())
    }

    /// Writes the rows of a User that owns none yet, and returns whether they replace rows that
    /// were made by hand or were those of another User.
    async fn claim(&self, wanted: &UserRows) -> Result<bool, UserError> {
        let mut adopted = false;
        let mut unowned = UnownedRows::Refuse;
        for _ in 0..MAX_CONFLICTS {
            match self.write_rows(wanted, unowned).await {
                Ok(()) => return Ok(adopted),
                Err(Error::OwnerConflict { what, owner }) if !owner.is_empty() => {
                    adopted |= self.release_stale_owner(what, owner).await?;
                }
                Err(Error::OwnerConflict { .. })
                    if self.desired.adopt == AdoptionPolicy::IfExists && unowned == UnownedRows::Refuse =>
                {
                    adopted = true;
                    unowned = UnownedRows::Adopt;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.write_rows(wanted, unowned).await?;
        Ok(adopted)
    }

    /// Deletes the rows of a User that no longer exists and whose user this one may take over.
    /// Returns whether it had another name than this one.
    ///
    /// # Errors
    ///
    /// Returns the conflict if the owner exists or may exist.
    async fn release_stale_owner(&self, what: String, owner: String) -> Result<bool, UserError> {
        let other = UserOwner::parse(&owner).filter(|other| self.context.scope.contains(&other.namespace));
        let other = match other {
            Some(other)
                if !exists::<User>(self.context, &other.namespace, &other.resource, &other.uid).await? =>
            {
                other
            }
            _ => return Err(Error::OwnerConflict { what, owner }.into()),
        };
        let is_earlier = other.has_name_of(self.owner);
        if !is_earlier && self.desired.adopt == AdoptionPolicy::Never {
            let message = format!(
                "{what} was managed by {other}, which no longer exists: set spec.adopt to IfExists to manage the user, or choose another name"
            );
            return Err(UserProblem::new(ConditionReason::AlreadyExists, message).into());
        }
        tracing::info!(user = %self.desired.name, owner = %other, "the User no longer exists: taking its rows over");
        self.store("delete_user").delete_user(&owner).await?;
        Ok(!is_earlier)
    }

    /// Returns the rows that the User should own.
    pub(super) async fn rows(
        &self,
        source: Option<&PasswordSource<'_>>,
        stored: &UserRows,
    ) -> Result<UserRows, UserError> {
        let desired = self.desired;
        let credentials = match source {
            Some(source) => self.credentials(source, stored).await?,
            None => Vec::new(),
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
        source: &PasswordSource<'_>,
        stored: &UserRows,
    ) -> Result<Vec<ScramCredentialRow>, UserError> {
        let (uid, password) = (self.user.resource_uid(), source.password.as_str());
        let mechanisms = stored.credentials.iter().map(|row| row.mechanism.as_str());
        let wanted = source.scram.mechanisms.iter().map(|mechanism| mechanism.name());
        if mechanisms.eq(wanted) && self.verified.are_known(uid, password, &stored.credentials) {
            return Ok(stored.credentials.clone());
        }
        let rows = credentials_of(
            self.desired.name.clone(),
            source.password.clone(),
            source.scram.mechanisms.clone(),
            stored.credentials.clone(),
            self.context.entropy.clone(),
        )
        .await?;
        self.verified.remember(uid, password, &rows);
        Ok(rows)
    }

    async fn write_rows(&self, wanted: &UserRows, unowned: UnownedRows) -> streamhouse_metadata::Result<()> {
        let store = self.store("apply_user");
        store.apply_user(&self.owner.key(), wanted, unowned).await?;
        Ok(())
    }

    async fn write_secret(&self, source: &PasswordSource<'_>) -> Result<bool, UserError> {
        let (name, content) = (&source.scram.secret_name, &source.content);
        write_client_secret(self.context, self.user, name, content, &source.secret).await
    }
}

/// Returns whether the status names a Secret for clients, which was written before.
fn has_been_published(user: &User) -> bool {
    let status = user.status.as_ref();
    status.is_some_and(|status| status.secret_name.is_some())
}

/// Notes what has to change for the stored rows to be the wanted ones. Both have each row once, and
/// the credentials of one user.
pub(super) fn compare_rows(stored: &UserRows, wanted: &UserRows, changes: &mut UserChanges) {
    fn sorted<T>(rows: &[T], order: impl Fn(&T, &T) -> Ordering) -> Vec<&T> {
        let mut rows: Vec<&T> = rows.iter().collect();
        rows.sort_by(|a, b| order(a, b));
        rows
    }
    let credentials = |rows| sorted(rows, |a: &ScramCredentialRow, b| a.mechanism.cmp(&b.mechanism));
    let acls = |rows| sorted(rows, AclRow::cmp);
    let quotas = |rows| sorted(rows, |a: &ClientQuotaRow, b| a.id.cmp(&b.id));
    changes.credentials = credentials(&stored.credentials) != credentials(&wanted.credentials);
    changes.acls = acls(&stored.acls) != acls(&wanted.acls);
    changes.quotas = quotas(&stored.quotas) != quotas(&wanted.quotas);
}

#[cfg(test)]
mod tests;
