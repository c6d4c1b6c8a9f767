//! HTTP digest for SIP (RFC 3261 §22, RFC 7616, RFC 8760): MD5 and SHA-256, qop=auth.

use proto::time::{Duration, Instant};

use super::header::HeaderName;
use super::message::{Request, Response};

/// What a request's credentials are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None for our realm: challenge.
    Missing,
    /// Right user and password, but the nonce is too old: challenge with stale=true.
    Stale,
    /// Right.
    Valid {
        /// Who it is.
        username: String,
    },
    /// Wrong user, password, or forged nonce: challenge, or refuse.
    Wrong,
}

/// The UAS side: writes challenges and checks answers. Keeps no state per nonce.
#[derive(Clone, Debug)]
pub struct Verifier {
    realm: String,
    seed: u64,
    lifetime: Duration,
}

impl Verifier {
    /// For one realm; nonces live for `lifetime` (30 s is usual).
    pub fn new(realm: &str, seed: u64, lifetime: Duration) -> Self {
        Self { realm: realm.to_owned(), seed, lifetime }
    }

    /// 401 to `request` with a WWW-Authenticate for SHA-256 and one for MD5.
    pub fn challenge(&self, request: &Request, stale: bool, now: Instant) -> Response {
        let _ = (stale, now, self.seed, self.lifetime, &self.realm);
        Response::to_request(request, 401)
    }

    /// Checks Authorization of `request`; `password` looks a user up.
    pub fn verify(
        &self,
        request: &Request,
        password: impl Fn(&str) -> Option<String>,
        now: Instant,
    ) -> Verdict {
        let _ = (request, password, now);
        Verdict::Missing
    }
}

/// What a UAC answers with.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// The UAC side: the header to add to a request that was answered 401 or 407 with `challenge`.
/// The strongest algorithm offered is taken. `None` if nothing offered can be answered.
/// `cnonce` must be fresh ([`super::Endpoint::new_token`]).
pub fn answer(
    challenge: &Response,
    request: &Request,
    credentials: &Credentials,
    cnonce: &str,
) -> Option<(HeaderName, String)> {
    let _ = (challenge, request, credentials, cnonce);
    None
}
