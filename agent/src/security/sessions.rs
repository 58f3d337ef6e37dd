//! Sessions of people in a browser, as signed texts: nothing is kept of them, so they cannot fill
//! memory. A session holds at all agents of the cluster. It ends after [`MAX_AGE`], and when the
//! user's credential is changed or deleted.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use streamhouse_core::security::ScramMechanism;
use tokio::time::Duration;

use super::{ClientIdentity, ClientSecurity, agent_token::MAX_CLOCK_DIFFERENCE};

/// How long a session lasts.
pub const MAX_AGE: Duration = Duration::from_secs(8 * 3600);
/// The longest text of a session.
const MAX_TOKEN_LEN: usize = 4096;

impl ClientSecurity {
    /// Returns the text of a new session of a client that has authenticated; `None` for others.
    pub fn begin_session(&self, identity: &ClientIdentity, now_ms: i64) -> Option<String> {
        let mechanism = identity.credential()?.mechanism();
        let claims = format!("{now_ms} {mechanism} {}", identity.principal().name());
        let tag = hmac::sign(&self.keys.load().sessions, &self.signed_bytes(&claims, identity)?);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(format!("{}.{}", encode(claims.as_bytes()), encode(tag.as_ref())))
    }

    /// Returns who began a session; `None` if it is over or not one of this cluster.
    pub fn resume_session(&self, token: &str, now_ms: i64) -> Option<ClientIdentity> {
        if token.len() > MAX_TOKEN_LEN {
            return None;
        }
        let (claims, tag) = token.split_once('.')?;
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let mut parts = claims.splitn(3, ' ');
        let begun_ms: i64 = parts.next()?.parse().ok()?;
        let mechanism: ScramMechanism = parts.next()?.parse().ok()?;
        let user = parts.next()?;
        let view = self.view()?;
        let credential = view.credential(user, mechanism)?.clone();
        let identity = ClientIdentity::proven(user, credential).ok()?;
        hmac::verify(
            &self.keys.load().sessions,
            &self.signed_bytes(&claims, &identity)?,
            &tag,
        )
        .ok()?;
        let age_ms = now_ms.checked_sub(begun_ms)?;
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        // Another agent's clock may be ahead.
        let ages = -ms(MAX_CLOCK_DIFFERENCE)..ms(MAX_AGE);
        ages.contains(&age_ms).then_some(identity)
    }

    /// The credential is signed too, so that another one ends the session.
    fn signed_bytes(&self, claims: &str, identity: &ClientIdentity) -> Option<Vec<u8>> {
        let keys = identity.credential()?.keys();
        Some([claims.as_bytes(), &[0], &keys.stored].concat())
    }
}
