//! The conformance suite on every backend.

macro_rules! on_sqlite_memory {
    ($($module:ident::$scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let fresh = crate::tests::support::sqlite_memory().await;
            crate::conformance::$module::$scenario(&fresh.store).await;
        }
    )* };
}

macro_rules! on_sqlite_file {
    ($($module:ident::$scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let fresh = crate::tests::support::sqlite_file().await;
            crate::conformance::$module::$scenario(&fresh.store).await;
        }
    )* };
}

macro_rules! on_postgres {
    ($($module:ident::$scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let fresh = crate::tests::support::postgres().await;
            crate::conformance::$module::$scenario(&fresh.store).await;
        }
    )* };
}

macro_rules! on_oldest_schema {
    ($($module:ident::$scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let fresh = crate::tests::support::postgres_of_oldest_schema().await;
            crate::conformance::$module::$scenario(&fresh.store).await;
        }
    )* };
}

macro_rules! on_oldest_schema_of_a_file {
    ($($module:ident::$scenario:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let fresh = crate::tests::support::sqlite_file_of_oldest_schema().await;
            crate::conformance::$module::$scenario(&fresh.store).await;
        }
    )* };
}

mod sqlite_memory {
    crate::conformance_suite!(on_sqlite_memory);
    crate::security_conformance_suite!(on_sqlite_memory);
}

mod sqlite_file {
    crate::conformance_suite!(on_sqlite_file);
    crate::security_conformance_suite!(on_sqlite_file);
}

mod postgres {
    crate::conformance_suite!(on_postgres);
    crate::security_conformance_suite!(on_postgres);
}

/// This build on the oldest schema that it runs on.
mod postgres_of_oldest_schema {
    crate::conformance_suite!(on_oldest_schema);
}

mod sqlite_of_oldest_schema {
    crate::conformance_suite!(on_oldest_schema_of_a_file);
}
