//! An operator that is killed after any of its writes, and a successor that is killed before any of
//! its own, leave nothing that the next one does not complete. In between, clients that have a
//! password can use it. All pairs of writes are tried.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use streamhouse_metadata::AclRow;

use crate::{
    crash_points::{CrashPoint, StopPoint},
    environment::{TestOperator, UserTestEnvironment, eventually, has_finalizer},
};

const USER: &str = "alice";

/// One change of a User, which operators that crash carry out.
trait CrashedChange {
    /// Requests the change. No operator runs.
    async fn request(&mut self);

    /// Resolves when this operator has nothing more to do.
    async fn done(&self, operator: &TestOperator);

    /// Checks what a crash has left.
    async fn check_crash(&self, at: &str);

    /// Checks the result. An operator runs.
    async fn check_result(&mut self, operator: &TestOperator);
}

/// Returns the writes of the change, after each of which an operator was killed.
async fn crash_everywhere(world: &UserTestEnvironment, change: &mut impl CrashedChange) -> Vec<String> {
    let mut writes = Vec::new();
    for first in 0.. {
        for second in 0.. {
            change.request().await;
            let crashed = crash_at(world, change, first, StopPoint::After).await;
            let recovers = match &crashed {
                Some(_) => crash_at(world, change, second, StopPoint::Before).await.is_some(),
                None => false,
            };
            let operator = world.start_operator();
            change.check_result(&operator).await;
            operator.kill().await;
            match crashed {
                None => return writes,
                Some(write) if second == 0 => writes.push(write),
                Some(_) => {}
            }
            if !recovers {
                break;
            }
        }
    }
    writes
}

/// Kills an operator at the write that follows so many, and returns its name; `None` if there is
/// none.
async fn crash_at(
    world: &UserTestEnvironment,
    change: &impl CrashedChange,
    writes: i64,
    stop: StopPoint,
) -> Option<String> {
    let point = CrashPoint::new(writes, stop);
    let operator = world.start_crashing_operator(&point);
    let crashed = tokio::select! {
        biased;
        write = point.stopped() => Some(write),
        () = change.done(&operator) => None,
    };
    operator.kill().await;
    if let Some(write) = &crashed {
        change.check_crash(&format!("{stop:?} {write}")).await;
    }
    crashed
}

/// Returns a spec whose rights and quota tell which version of it is stored.
fn versioned(version: i64) -> Value {
    let topic = json!({ "type": "topic", "name": format!("orders-{version}") });
    json!({
        "authorization": { "acls": [{ "resource": topic, "operations": ["Read", "Write"] }] },
        "quotas": { "producerByteRate": version },
    })
}

/// Asserts that the rows are those of one version of the spec as a whole, and returns it.
async fn stored_version(world: &UserTestEnvironment) -> i64 {
    let rows = world.rows(USER).await.unwrap();
    assert_eq!((rows.acls.len(), rows.quotas.len()), (2, 1), "{rows:?}");
    let version = rows.quotas[0].value as i64;
    let topic = format!("orders-{version}");
    assert!(rows.acls.iter().all(|acl| acl.resource_name == topic), "{rows:?}");
    version
}

/// Whether the Secret for clients exists and its password is that of the user.
async fn is_secret_good(world: &UserTestEnvironment) -> bool {
    match world.secret(USER).await {
        Some(secret) => world.accepts(USER, &secret["password"]).await,
        None => false,
    }
}

async fn delete_secret(world: &UserTestEnvironment) {
    let how = DeleteParams::default();
    world.secrets.delete(USER, &how).await.unwrap();
}

/// Deletes the User as a whole. No garbage collector runs here.
async fn clean_up(world: &UserTestEnvironment) {
    world.delete(USER).await;
    world.until_gone(USER).await;
    assert_eq!(world.rows(USER).await, None);
    delete_secret(world).await;
}

struct Creation<'a> {
    world: &'a UserTestEnvironment,
    authentication: Value,
    version: i64,
}

impl CrashedChange for Creation<'_> {
    async fn request(&mut self) {
        self.version += 1;
        let mut spec = versioned(self.version);
        spec["authentication"] = self.authentication.clone();
        self.world.apply(USER, spec).await;
    }

    async fn done(&self, operator: &TestOperator) {
        self.world.until_ready(USER).await;
        self.world.until_rest(&[operator]).await;
    }

    async fn check_crash(&self, at: &str) {
        assert_eq!(stored_version(self.world).await, self.version);
        if self.world.secret(USER).await.is_some() {
            assert!(
                is_secret_good(self.world).await,
                "{at}: the Secret has a password that is refused"
            );
        }
    }

    async fn check_result(&mut self, _: &TestOperator) {
        let user = self.world.until_ready(USER).await;
        assert!(has_finalizer(&user));
        assert_eq!(user.status.unwrap().secret_name.as_deref(), Some(USER));
        assert!(is_secret_good(self.world).await);
        assert_eq!(stored_version(self.world).await, self.version);
        assert_eq!(self.world.store.list_owned_users("").await.unwrap().len(), 1);
        clean_up(self.world).await;
    }
}

const CREATION: [&str; 5] = [
    "apply_user",
    "PATCH users",
    "POST secrets",
    "PATCH users/status",
    "POST events",
];

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_create_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-create").await;
    let mut creation = Creation {
        world: &world,
        authentication: json!({ "type": "scram" }),
        version: 0,
    };
    assert_eq!(crash_everywhere(&world, &mut creation).await, CREATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_create_with_a_given_password_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-create-given").await;
    world.put_secret("given", json!({ "password": "hush" })).await;
    let mut creation = Creation {
        world: &world,
        authentication: json!({ "type": "scram", "passwordSecret": { "name": "given" } }),
        version: 0,
    };
    assert_eq!(crash_everywhere(&world, &mut creation).await, CREATION);
}

struct Update<'a> {
    world: &'a UserTestEnvironment,
    password: String,
    version: i64,
}

impl CrashedChange for Update<'_> {
    async fn request(&mut self) {
        self.version += 1;
        self.world.apply(USER, versioned(self.version)).await;
    }

    async fn done(&self, operator: &TestOperator) {
        self.world.until_ready(USER).await;
        self.world.until_rest(&[operator]).await;
    }

    async fn check_crash(&self, at: &str) {
        assert!(
            self.world.accepts(USER, &self.password).await,
            "{at}: the password is refused"
        );
        assert!([self.version - 1, self.version].contains(&stored_version(self.world).await));
    }

    async fn check_result(&mut self, _: &TestOperator) {
        self.world.until_ready(USER).await;
        assert_eq!(stored_version(self.world).await, self.version);
        assert!(self.world.accepts(USER, &self.password).await);
        assert!(is_secret_good(self.world).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_change_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-change").await;
    let operator = world.start_operator();
    world.apply(USER, versioned(1)).await;
    world.until_ready(USER).await;
    operator.kill().await;
    let mut update = Update {
        password: world.secret(USER).await.unwrap()["password"].clone(),
        world: &world,
        version: 1,
    };
    let writes = crash_everywhere(&world, &mut update).await;
    assert_eq!(writes, ["apply_user", "PATCH users/status", "POST events"]);
}

struct Rotation<'a> {
    world: &'a UserTestEnvironment,
    /// The number of the given password; `None` if passwords are generated.
    given: Option<u32>,
    /// The password that clients have.
    password: String,
}

impl Rotation<'_> {
    async fn is_rotated(&self) -> bool {
        let secret = self.world.secret(USER).await;
        secret.is_some_and(|secret| secret["password"] != self.password) && is_secret_good(self.world).await
    }
}

impl CrashedChange for Rotation<'_> {
    async fn request(&mut self) {
        match &mut self.given {
            Some(number) => {
                *number += 1;
                let password = json!({ "password": format!("hush-{number}") });
                self.world.put_secret("given", password).await;
            }
            None => delete_secret(self.world).await,
        }
    }

    async fn done(&self, operator: &TestOperator) {
        eventually("the new password", async || self.is_rotated().await).await;
        self.world.until_rest(&[operator]).await;
    }

    async fn check_crash(&self, at: &str) {
        // Clients learn of a new password before the present one ends.
        assert!(
            self.world.accepts(USER, &self.password).await || is_secret_good(self.world).await,
            "{at}: every password is refused"
        );
        assert_eq!(stored_version(self.world).await, 1);
    }

    async fn check_result(&mut self, _: &TestOperator) {
        eventually("the new password", async || self.is_rotated().await).await;
        self.world.until_ready(USER).await;
        assert_eq!(stored_version(self.world).await, 1);
        self.password = self.world.secret(USER).await.unwrap()["password"].clone();
        if let Some(number) = self.given {
            assert_eq!(self.password, format!("hush-{number}"));
        }
    }
}

async fn rotate_everywhere(
    world: &UserTestEnvironment,
    given: Option<u32>,
    authentication: Value,
) -> Vec<String> {
    let operator = world.start_operator();
    let mut spec = versioned(1);
    spec["authentication"] = authentication;
    world.apply(USER, spec).await;
    world.until_ready(USER).await;
    operator.kill().await;
    let mut rotation = Rotation {
        world,
        given,
        password: world.secret(USER).await.unwrap()["password"].clone(),
    };
    crash_everywhere(world, &mut rotation).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_rotation_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-rotation").await;
    let writes = rotate_everywhere(&world, None, json!({ "type": "scram" })).await;
    assert_eq!(writes, ["POST secrets", "apply_user", "POST events"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_rotation_of_a_given_password_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-rotation-given").await;
    world.put_secret("given", json!({ "password": "hush-0" })).await;
    let given = json!({ "type": "scram", "passwordSecret": { "name": "given" } });
    let writes = rotate_everywhere(&world, Some(0), given).await;
    assert_eq!(writes, ["PATCH secrets", "apply_user", "POST events"]);
}

struct Deletion<'a> {
    world: &'a UserTestEnvironment,
    others: AclRow,
}

impl CrashedChange for Deletion<'_> {
    async fn request(&mut self) {
        let operator = self.world.start_operator();
        self.world.apply(USER, versioned(1)).await;
        self.world.until_ready(USER).await;
        operator.kill().await;
        self.world.delete(USER).await;
    }

    async fn done(&self, _: &TestOperator) {
        self.world.until_gone(USER).await;
        // Its event follows.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn check_crash(&self, at: &str) {
        match self.world.get(USER).await {
            Some(user) => assert!(has_finalizer(&user), "{user:?}"),
            None => assert_eq!(self.world.rows(USER).await, None, "{at}: rows are left"),
        }
    }

    async fn check_result(&mut self, _: &TestOperator) {
        self.world.until_gone(USER).await;
        let snapshot = self.world.store.load_security().await.unwrap();
        assert!(snapshot.credentials.iter().all(|row| row.user_name == "bob"));
        assert!(snapshot.quotas.is_empty());
        assert_eq!(snapshot.acls, std::slice::from_ref(&self.others));
        assert!(self.world.rows("bob").await.is_some());
        delete_secret(self.world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_in_mid_delete_are_followed_by_one_that_ends_it() {
    let world = UserTestEnvironment::new("mid-delete").await;
    let others = AclRow {
        principal: "User:alice".to_owned(),
        resource_type: "TOPIC".to_owned(),
        resource_name: "by-hand".to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: "READ".to_owned(),
        permission: "ALLOW".to_owned(),
    };
    world
        .store
        .create_acls(std::slice::from_ref(&others))
        .await
        .unwrap();
    let operator = world.start_operator();
    world.apply("bob", json!({})).await;
    world.until_ready("bob").await;
    operator.kill().await;
    let mut deletion = Deletion {
        world: &world,
        others,
    };
    let writes = crash_everywhere(&world, &mut deletion).await;
    assert_eq!(writes, ["delete_user", "PATCH users", "POST events"]);
}
