//! The certificates that cert-manager is asked for.

use serde_json::json;

use super::{Child, object::Draft};
use crate::cluster::{
    children::ManagedKind,
    desired::{Desired, Port},
};

/// The certificate of a listener, if an issuer shall sign it. It names the Service; agents are checked by that name too, since nobody
/// knows the addresses of pods beforehand.
pub(super) fn certificate(desired: &Desired, listener: &str, port: &Port) -> Option<Child> {
    let certificate = port.certificate.as_ref()?;
    let issuer = certificate.issuer.as_ref()?;
    let service = desired.service();
    let namespace = &desired.namespace;
    let names = [
        service.clone(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let draft = Draft::new(
        desired,
        ManagedKind::Certificate,
        format!("{}-{listener}", desired.name),
    );
    Some(draft.body(json!({ "spec": {
        "secretName": certificate.secret,
        "dnsNames": names,
        "usages": ["digital signature", "server auth"],
        "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
        "issuerRef": { "name": issuer.name, "kind": issuer.kind.as_str(), "group": "cert-manager.io" },
    } })))
}
