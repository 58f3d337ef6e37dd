//! The enumerations of a binding with their codes and names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::error::AclError;

/// The code that stands for every value in a filter.
const ANY_CODE: i8 = 1;

/// Declares an enumeration from one table of variants, codes and names.
macro_rules! acl_kind {
    (
        $(#[$doc:meta])* $kind:ident is $what:literal;
        $($(#[$variant_doc:meta])* $variant:ident = $code:literal, $kafka_name:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $kind { $($(#[$variant_doc])* $variant,)* }

        impl $kind {
            /// All values, by their code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the number in Kafka's protocol.
            pub const fn code(self) -> i8 { match self { $(Self::$variant => $code,)* } }

            /// Returns the name as `kafka-acls` takes it, such as `AlterConfigs`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// Returns the name as `kafka-acls` prints it, such as `ALTER_CONFIGS`.
            pub const fn kafka_name(self) -> &'static str {
                match self { $(Self::$variant => $kafka_name,)* }
            }

            /// Returns the value with a number.
            ///
            /// # Errors
            ///
            /// Fails for numbers that are unknown or have a meaning in filters only.
            pub const fn from_code(code: i8) -> Result<Self, AclError> {
                match code {
                    $($code => Ok(Self::$variant),)*
                    code => Err(AclError::UnknownCode { what: $what, code }),
                }
            }

            /// Returns the value with a number in a filter; `None` is every value.
            ///
            /// # Errors
            ///
            /// Fails for numbers that are unknown.
            pub fn filter_from_code(code: i8) -> Result<Option<Self>, AclError> {
                if code == ANY_CODE {
                    return Ok(None);
                }
                Self::from_code(code).map(Some)
            }
        }

        impl fmt::Display for $kind {
            /// Writes the name as `kafka-acls` takes it.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = AclError;

            /// Reads a name in upper or lower case, with or without `_` or `-` between its words.
            fn from_str(name: &str) -> Result<Self, AclError> {
                let found = Self::ALL.iter().copied().find(|value| is_same_name(value.name(), name));
                found.ok_or_else(|| AclError::UnknownName {
                    what: $what,
                    name: name.to_owned(),
                    known: join_names(Self::ALL),
                })
            }
        }
    };
}

acl_kind! {
    /// What kind of thing a binding protects.
    AclResourceType is "resource type";
    /// A topic, by its name.
    Topic = 2, "TOPIC";
    /// A consumer group, by its id.
    Group = 3, "GROUP";
    /// The cluster itself, by its only name, [`super::CLUSTER_RESOURCE_NAME`].
    Cluster = 4, "CLUSTER";
    /// A transactional producer, by its transactional id.
    TransactionalId = 5, "TRANSACTIONAL_ID";
    /// A delegation token, by its id.
    DelegationToken = 6, "DELEGATION_TOKEN";
    /// A user, by its principal.
    User = 7, "USER";
}

acl_kind! {
    /// Which resources the name of a binding stands for.
    AclPatternType is "pattern type";
    /// The resource with the name, or all resources of the type if the name is `*`.
    Literal = 3, "LITERAL";
    /// All resources whose names begin with the name.
    Prefixed = 4, "PREFIXED";
}

acl_kind! {
    /// What a principal does to a resource.
    AclOperation is "operation";
    /// Every operation.
    All = 2, "ALL";
    /// Reads records of a topic, or is a member of a group.
    Read = 3, "READ";
    /// Writes records.
    Write = 4, "WRITE";
    /// Creates topics.
    Create = 5, "CREATE";
    /// Deletes topics, groups or records.
    Delete = 6, "DELETE";
    /// Changes topics or, on the cluster, ACLs and credentials.
    Alter = 7, "ALTER";
    /// Learns that the resource exists, and its state.
    Describe = 8, "DESCRIBE";
    /// Acts as a broker.
    ClusterAction = 9, "CLUSTER_ACTION";
    /// Reads settings.
    DescribeConfigs = 10, "DESCRIBE_CONFIGS";
    /// Changes settings.
    AlterConfigs = 11, "ALTER_CONFIGS";
    /// Writes as an idempotent producer; since Kafka 3.0 the right to write to a topic suffices.
    IdempotentWrite = 12, "IDEMPOTENT_WRITE";
    /// Creates delegation tokens for the user.
    CreateTokens = 13, "CREATE_TOKENS";
    /// Lists delegation tokens of the user.
    DescribeTokens = 14, "DESCRIBE_TOKENS";
    /// Takes part in transactions of several systems.
    TwoPhaseCommit = 15, "TWO_PHASE_COMMIT";
}

acl_kind! {
    /// What a binding says about an operation.
    AclPermission is "permission";
    /// The operation is refused, whatever other bindings allow.
    Deny = 2, "DENY";
    /// The operation is allowed unless another binding denies it.
    Allow = 3, "ALLOW";
}

impl AclResourceType {
    /// Returns the operations that requests need on such a resource, as Kafka's
    /// `AclEntry.supportedOperations`. A binding may also name all of them.
    pub const fn operations(self) -> &'static [AclOperation] {
        use AclOperation::*;
        match self {
            Self::Topic => &[
                Read,
                Write,
                Create,
                Delete,
                Alter,
                Describe,
                DescribeConfigs,
                AlterConfigs,
            ],
            Self::Group => &[Read, Delete, Describe, DescribeConfigs, AlterConfigs],
            Self::Cluster => &[
                Create,
                Alter,
                Describe,
                ClusterAction,
                DescribeConfigs,
                AlterConfigs,
                IdempotentWrite,
            ],
            Self::TransactionalId => &[Write, Describe, TwoPhaseCommit],
            Self::DelegationToken => &[Describe],
            Self::User => &[CreateTokens, DescribeTokens],
        }
    }
}

/// Returns whether a text is a name but for case, `_` and `-`.
fn is_same_name(name: &str, text: &str) -> bool {
    let letters = text.bytes().filter(|letter| !matches!(letter, b'_' | b'-'));
    letters
        .map(|letter| letter.to_ascii_lowercase())
        .eq(name.bytes().map(|letter| letter.to_ascii_lowercase()))
}

/// Returns the names of values for a message.
pub(super) fn join_names<T: fmt::Display>(values: &[T]) -> String {
    let names: Vec<String> = values.iter().map(T::to_string).collect();
    names.join(", ")
}
