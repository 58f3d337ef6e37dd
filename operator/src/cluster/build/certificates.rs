//! Builds the Certificates for cert-manager.

use serde_json::json;

use super::{ChildObject, object::ObjectBuilder};
use crate::cluster::{
    children::ManagedKind,
    desired::{DesiredCluster, ListenerPort},
};

/// Builds the Certificate of a listener if it has an issuer. It names the Service; connections to
/// agents are verified against that name too, since the addresses of pods are not known in advance.
pub(super) fn certificate(
    desired: &DesiredCluster,
    listener: &str,
    port: &ListenerPort,
) -> Option<ChildObject> {
    let certificate = port.certificate.as_ref()?;
    let issuer = certificate.issuer.as_ref()?;
    let service = desired.service_name();
    let namespace = &desired.namespace;
    let names = [
        service.clone(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let draft = ObjectBuilder::new(
        desired,
        ManagedKind::Certificate,
        format!("{}-{listener}", desired.name),
    );
    Some(draft.build(json!({ "spec": {
        "secretName": certificate.secret,
        "dnsNames": names,
        "usages": ["digital signature", "server auth"],
        "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
        "issuerRef": { "name": issuer.name, "kind": issuer.kind.as_str(), "group": "cert-manager.io" },
    } })))
}
