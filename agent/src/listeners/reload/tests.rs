//! Files that change, break and are swapped as Kubernetes does.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

fn file_with(address: &str, port: u16) -> String {
    format!("listeners: [{{name: external, listen: '[::]:{port}', address: '{address}'}}]\n")
}

async fn load(path: &Path) -> (ListenersFileReader, Arc<AgentMetrics>) {
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    (ListenersFileReader::load(path, &metrics).await.unwrap(), metrics)
}

fn shared(book: &ListenerAddressBook) -> Option<String> {
    book.addresses("external").shared.clone()
}

fn gauges(metrics: &AgentMetrics) -> (i64, i64) {
    (
        metrics.listeners_file_invalid.get(),
        metrics.listeners_restart_pending.get(),
    )
}

#[tokio::test]
async fn new_addresses_are_used_and_a_bad_file_keeps_the_last_good_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    fs::write(&path, file_with("a:1", 9094)).unwrap();
    let (mut reader, metrics) = load(&path).await;
    let book = reader.address_book().clone();
    assert!(!reader.reload().await, "nothing has changed");
    fs::write(&path, file_with("b:2", 9094)).unwrap();
    assert!(reader.reload().await);
    assert_eq!(shared(&book).as_deref(), Some("b:2"));
    for bad in ["listeners: [", "listeners: [{name: external}]"] {
        fs::write(&path, bad).unwrap();
        assert!(!reader.reload().await);
        assert_eq!(
            (shared(&book).as_deref(), gauges(&metrics)),
            (Some("b:2"), (1, 0))
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(!reader.reload().await);
    assert_eq!(
        (shared(&book).as_deref(), gauges(&metrics)),
        (Some("b:2"), (1, 0))
    );
    fs::write(&path, file_with("c:3", 9094)).unwrap();
    assert!(reader.reload().await);
    assert_eq!(
        (shared(&book).as_deref(), gauges(&metrics)),
        (Some("c:3"), (0, 0))
    );
}

#[tokio::test]
async fn other_sockets_wait_for_a_restart_and_new_addresses_do_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    fs::write(&path, file_with("a:1", 9094)).unwrap();
    let (mut reader, metrics) = load(&path).await;
    let book = reader.address_book().clone();
    fs::write(&path, file_with("b:2", 9095)).unwrap();
    assert!(reader.reload().await);
    assert_eq!(
        (shared(&book).as_deref(), gauges(&metrics)),
        (Some("b:2"), (0, 1))
    );
    assert_eq!(reader.listeners()[0].listen, "[::]:9094");
    let other_protocol =
        file_with("b:2", 9094).replace("address: 'b:2'", "protocol: kafka, agents: {one: 'b:2'}");
    fs::write(&path, other_protocol).unwrap();
    assert!(reader.reload().await);
    assert_eq!(gauges(&metrics), (0, 1));
    fs::write(&path, "listeners: []").unwrap();
    assert!(reader.reload().await);
    assert_eq!((shared(&book), gauges(&metrics)), (None, (0, 1)));
    fs::write(&path, file_with("b:2", 9094)).unwrap();
    assert!(reader.reload().await);
    assert_eq!(gauges(&metrics), (0, 0));
}

/// A mounted ConfigMap: `listeners.yaml -> ..data/listeners.yaml`, where `..data` is replaced.
#[tokio::test]
async fn a_folder_swapped_as_kubernetes_does_is_noticed() {
    let dir = TempDir::new().unwrap();
    for (folder, address) in [("..one", "a:1"), ("..two", "b:2")] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(
            dir.path().join(folder).join("listeners.yaml"),
            file_with(address, 9094),
        )
        .unwrap();
    }
    let path = dir.path().join("listeners.yaml");
    symlink("..one", dir.path().join("..data")).unwrap();
    symlink("..data/listeners.yaml", &path).unwrap();
    let (reader, _) = load(&path).await;
    let book = reader.address_book().clone();
    symlink("..two", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    let noticed = async {
        while shared(&book).as_deref() != Some("b:2") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = reader.reload_periodically(Duration::from_millis(1)) => unreachable!("it never returns"),
        noticed = tokio::time::timeout(Duration::from_secs(60), noticed) => noticed.unwrap(),
    }
}
