//! HTTP digest for SIP (RFC 3261 §22, RFC 7616, RFC 8760): MD5 and SHA-256, qop=auth.
//!
//! Invariant: the verifier keeps nothing per nonce; a nonce proves by a keyed hash who made it and
//! when. Deliberately not here: auth-int, the -sess variants, SHA-512-256, and a memory of nonce
//! counts: within its lifetime a captured answer can be replayed for the same method and user part
//! of the URI by whoever reads the signaling.

use md5::{Digest, Md5};
use proto::time::{Duration, Instant};
use sha2::Sha256;

use super::header::HeaderName;
use super::lex;
use super::message::{Request, Response};
use super::uri::Uri;

/// What a request's credentials are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None for our realm: challenge.
    Missing,
    /// Right user and password, but the nonce is too old or of a former life: challenge with
    /// stale=true.
    Stale,
    /// Right.
    Valid {
        /// Who it is.
        username: String,
    },
    /// Wrong user or password: challenge, or refuse.
    Wrong,
}

/// The hash of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// RFC 2617, still what most carriers speak.
    Md5,
    /// RFC 8760.
    Sha256,
}

impl Algorithm {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// By the name it has in headers.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_param(Some(name))
    }

    /// An absent algorithm means MD5 (RFC 7616 §3.3).
    fn from_param(name: Option<&str>) -> Option<Self> {
        let Some(name) = name else { return Some(Self::Md5) };
        [Self::Md5, Self::Sha256].into_iter().find(|a| name.eq_ignore_ascii_case(a.as_str()))
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The UAS side: writes challenges and checks answers.
#[derive(Clone, Debug)]
pub struct Verifier {
    realm: String,
    seed: u64,
    lifetime: Duration,
    algorithms: Vec<Algorithm>,
}

impl Verifier {
    /// For one realm; nonces live for `lifetime` (30 s is usual). `seed` is secret.
    pub fn new(realm: &str, seed: u64, lifetime: Duration) -> Self {
        let algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
        Self { realm: realm.to_owned(), seed, lifetime, algorithms }
    }

    /// With these hashes instead of SHA-256 and MD5; an empty list changes nothing.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: Vec<Algorithm>) -> Self {
        if !algorithms.is_empty() {
            self.algorithms = algorithms;
        }
        self
    }

    /// 401 to `request` with a WWW-Authenticate for each hash, best first (RFC 8760 §2.4).
    pub fn challenge(&self, request: &Request, stale: bool, now: Instant) -> Response {
        let mut response = Response::to_request(request, 401);
        let nonce = self.nonce(now.as_millis());
        let stale = if stale { ", stale=true" } else { "" };
        for algorithm in &self.algorithms {
            let value = format!(
                "Digest realm={}, nonce=\"{nonce}\", algorithm={}, qop=\"auth\"{stale}",
                quote(&self.realm),
                algorithm.as_str(),
            );
            response.headers.push(HeaderName::WwwAuthenticate, value);
        }
        response
    }

    /// Checks Authorization of `request`; `password` looks a user up.
    pub fn verify(
        &self,
        request: &Request,
        password: impl Fn(&str) -> Option<String>,
        now: Instant,
    ) -> Verdict {
        let answers = request.headers.get_all(&HeaderName::Authorization);
        let ours = answers
            .filter_map(|value| AuthParams::parse(value))
            .find(|params| params.get("realm").as_deref() == Some(self.realm.as_str()));
        let Some(params) = ours else { return Verdict::Missing };
        let Some(username) = params.get("username") else { return Verdict::Wrong };
        let Some(password) = password(&username) else { return Verdict::Wrong };
        if !self.is_right(request, &params, &username, &password) {
            return Verdict::Wrong;
        }
        if self.is_fresh(&params.get("nonce").unwrap_or_default(), now) {
            Verdict::Valid { username }
        } else {
            Verdict::Stale
        }
    }

    /// The URI hashed is the one in the answer: between us and the user a proxy may have rewritten
    /// the Request-URI. But not its user part, or an answer seen for one number would be good for
    /// all others.
    fn is_right(
        &self,
        request: &Request,
        params: &AuthParams,
        username: &str,
        password: &str,
    ) -> bool {
        let uri = params.get("uri").unwrap_or_default();
        if !uri.parse::<Uri>().is_ok_and(|uri| uri.user_unescaped() == request.uri.user_unescaped())
        {
            return false;
        }
        let Some(algorithm) = Algorithm::from_param(params.get("algorithm").as_deref()) else {
            return false;
        };
        // An answer to another challenge than ours (RFC 8760 §2.4: no bidding down).
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        let qop = params.get("qop");
        if qop.as_deref().is_some_and(|qop| !qop.eq_ignore_ascii_case("auth")) {
            return false;
        }
        let nc = params.get("nc").unwrap_or_default();
        let cnonce = params.get("cnonce").unwrap_or_default();
        let expected = Answer {
            algorithm,
            username,
            realm: &self.realm,
            password,
            method: request.method.as_str(),
            uri: &uri,
            nonce: &params.get("nonce").unwrap_or_default(),
            qop: qop.as_ref().map(|_| Qop { nc: &nc, cnonce: &cnonce }),
        }
        .compute();
        let given = params.get("response").unwrap_or_default().to_ascii_lowercase();
        equal_in_constant_time(expected.as_bytes(), given.as_bytes())
    }

    fn nonce(&self, made_ms: u64) -> String {
        let proof = Sha256::new()
            .chain_update(self.seed.to_be_bytes())
            .chain_update(made_ms.to_be_bytes())
            .chain_update(self.realm.as_bytes())
            .finalize();
        let proof = proof.get(..16).unwrap_or_default();
        format!("{made_ms:016x}{}", hex(proof))
    }

    fn is_fresh(&self, nonce: &str, now: Instant) -> bool {
        let made = nonce.get(..16).and_then(|made| u64::from_str_radix(made, 16).ok());
        let Some(made_ms) = made else { return false };
        let age = now - Instant::from_millis(made_ms);
        equal_in_constant_time(self.nonce(made_ms).as_bytes(), nonce.as_bytes())
            && age <= self.lifetime
    }
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

/// What a UAC answers with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(•••)")
    }
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
    let (asked, name) = match challenge.status {
        401 => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
        407 => (HeaderName::ProxyAuthenticate, HeaderName::ProxyAuthorization),
        _ => return None,
    };
    let (algorithm, params) = challenge
        .headers
        .get_all(&asked)
        .filter_map(|value| AuthParams::parse(value))
        .filter_map(|params| {
            let algorithm = Algorithm::from_param(params.get("algorithm").as_deref())?;
            params.offers_auth().then_some((algorithm, params))
        })
        .max_by_key(|(algorithm, _)| *algorithm)?;
    let (realm, nonce) = (params.get("realm")?, params.get("nonce")?);
    let uri = request.uri.to_string();
    let qop = params.get("qop").map(|_| Qop { nc: "00000001", cnonce });
    let answer = Answer {
        algorithm,
        username: &credentials.username,
        realm: &realm,
        password: &credentials.password,
        method: request.method.as_str(),
        uri: &uri,
        nonce: &nonce,
        qop,
    };
    Some((name, answer.header_value(params.get("opaque").as_deref())))
}

/// What a response hash is made of (RFC 7616 §3.4).
struct Answer<'a> {
    algorithm: Algorithm,
    username: &'a str,
    realm: &'a str,
    password: &'a str,
    method: &'a str,
    uri: &'a str,
    nonce: &'a str,
    qop: Option<Qop<'a>>,
}

#[derive(Clone, Copy)]
struct Qop<'a> {
    nc: &'a str,
    cnonce: &'a str,
}

impl Answer<'_> {
    fn compute(&self) -> String {
        let hash = |text: &str| self.algorithm.hash(text);
        let a1 = hash(&format!("{}:{}:{}", self.username, self.realm, self.password));
        let a2 = hash(&format!("{}:{}", self.method, self.uri));
        match self.qop {
            Some(Qop { nc, cnonce }) => {
                hash(&format!("{a1}:{}:{nc}:{cnonce}:auth:{a2}", self.nonce))
            }
            // RFC 2069 style, for servers that offer no qop.
            None => hash(&format!("{a1}:{}:{a2}", self.nonce)),
        }
    }

    fn header_value(&self, opaque: Option<&str>) -> String {
        let mut value = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{}\", algorithm={}",
            quote(self.username),
            quote(self.realm),
            quote(self.nonce),
            quote(self.uri),
            self.compute(),
            self.algorithm.as_str(),
        );
        if let Some(Qop { nc, cnonce }) = self.qop {
            value.push_str(&format!(", qop=auth, nc={nc}, cnonce={}", quote(cnonce)));
        }
        if let Some(opaque) = opaque {
            value.push_str(&format!(", opaque={}", quote(opaque)));
        }
        value
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `Digest name=value, name="value"…`.
struct AuthParams(Vec<(String, String)>);

impl AuthParams {
    fn parse(value: &[u8]) -> Option<Self> {
        let value = lex::trim(value);
        let (scheme, rest) = value.split_at_checked("Digest".len())?;
        if !scheme.eq_ignore_ascii_case(b"Digest") || !lex::is_space(*rest.first()?) {
            return None;
        }
        let params = lex::list(rest).filter_map(|item| {
            let (name, value) = lex::split_once(item, b'=')?;
            let name = String::from_utf8_lossy(lex::trim(name)).to_ascii_lowercase();
            Some((name, unquote(lex::trim(value))))
        });
        Some(Self(params.take(32).collect()))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// True without qop (RFC 2069), or if `auth` is among the choices.
    fn offers_auth(&self) -> bool {
        self.get("qop").is_none_or(|qop| {
            qop.split(',').any(|choice| choice.trim().eq_ignore_ascii_case("auth"))
        })
    }
}

fn unquote(value: &[u8]) -> String {
    let [b'"', inner @ .., b'"'] = value else {
        return String::from_utf8_lossy(value).into_owned();
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Method, Uri};

    fn request(method: Method) -> Request {
        let uri: Uri = "sip:+4930123@voxmesh.example".parse().expect("uri");
        Request::new(method, uri)
    }

    fn verifier() -> Verifier {
        Verifier::new("vox \"mesh\"", 7, Duration::from_secs(30))
    }

    fn password(user: &str) -> Option<String> {
        (user == "an\"na").then(|| "secret".to_owned())
    }

    fn credentials(password: &str) -> Credentials {
        Credentials { username: "an\"na".to_owned(), password: password.to_owned() }
    }

    fn answered(challenge: &Response, credentials: &Credentials) -> Request {
        let mut again = request(Method::Invite);
        let (name, value) = answer(challenge, &again, credentials, "c0ffee").expect("answer");
        again.headers.push(name, value);
        again
    }

    /// RFC 7616 §3.9.1 and RFC 2617 §3.5.
    #[test]
    fn computes_the_published_examples() {
        let mut answer = Answer {
            algorithm: Algorithm::Sha256,
            username: "Mufasa",
            realm: "http-auth@example.org",
            password: "Circle of Life",
            method: "GET",
            uri: "/dir/index.html",
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            qop: Some(Qop {
                nc: "00000001",
                cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            }),
        };
        assert_eq!(
            answer.compute(),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
        answer.algorithm = Algorithm::Md5;
        assert_eq!(answer.compute(), "8ca523f5e9506fed4657c9700eebdbec");
        answer.realm = "testrealm@host.com";
        answer.password = "Circle Of Life";
        answer.nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        answer.qop = Some(Qop { nc: "00000001", cnonce: "0a4f113b" });
        assert_eq!(answer.compute(), "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn both_algorithms_pass_our_own_verifier() {
        let now = Instant::from_millis(5_000);
        let both = verifier().challenge(&request(Method::Invite), false, now);
        let again = answered(&both, &credentials("secret"));
        assert!(again.headers.get_str(&HeaderName::Authorization).unwrap().contains("SHA-256"));
        let valid = Verdict::Valid { username: "an\"na".to_owned() };
        assert_eq!(verifier().verify(&again, password, now), valid);

        let mut only_md5 = both;
        only_md5.headers.remove_first(&HeaderName::WwwAuthenticate);
        let again = answered(&only_md5, &credentials("secret"));
        assert!(again.headers.get_str(&HeaderName::Authorization).unwrap().contains("=MD5"));
        assert_eq!(verifier().verify(&again, password, now), valid);
    }

    /// RFC 8760 §2.4: who challenges with SHA-256 alone takes no answer in MD5.
    #[test]
    fn no_bidding_down() {
        let now = Instant::from_millis(5_000);
        let only = |algorithm| verifier().with_algorithms(vec![algorithm]);
        let md5 = only(Algorithm::Md5).challenge(&request(Method::Invite), false, now);
        assert_eq!(md5.headers.get_all(&HeaderName::WwwAuthenticate).count(), 1);
        let again = answered(&md5, &credentials("secret"));
        let valid = Verdict::Valid { username: "an\"na".to_owned() };
        assert_eq!(only(Algorithm::Md5).verify(&again, password, now), valid);
        assert_eq!(only(Algorithm::Sha256).verify(&again, password, now), Verdict::Wrong);
    }

    #[test]
    fn tells_missing_wrong_and_stale_apart() {
        let now = Instant::from_millis(5_000);
        let verifier = verifier();
        let bare = request(Method::Invite);
        assert_eq!(verifier.verify(&bare, password, now), Verdict::Missing);
        let challenge = verifier.challenge(&bare, false, now);
        let wrong = answered(&challenge, &credentials("guess"));
        assert_eq!(verifier.verify(&wrong, password, now), Verdict::Wrong);
        let right = answered(&challenge, &credentials("secret"));
        let late = now + Duration::from_millis(30_001);
        assert_eq!(verifier.verify(&right, password, late), Verdict::Stale);
        assert_eq!(verifier.verify(&right, |_| None, now), Verdict::Wrong);
        let mut other_method = right.clone();
        other_method.method = Method::Bye;
        assert_eq!(verifier.verify(&other_method, password, now), Verdict::Wrong);
        let mut other_number = right.clone();
        other_number.uri = "sip:+900123@voxmesh.example".parse().expect("uri");
        assert_eq!(verifier.verify(&other_number, password, now), Verdict::Wrong);
        let mut by_proxy = right.clone();
        by_proxy.uri = "sip:+4930123@10.0.0.1:5070;lr".parse().expect("uri");
        let valid = Verdict::Valid { username: "an\"na".to_owned() };
        assert_eq!(verifier.verify(&by_proxy, password, now), valid);
        let after_restart = Verifier::new("vox \"mesh\"", 8, Duration::from_secs(30));
        assert_eq!(after_restart.verify(&right, password, now), Verdict::Stale);
    }

    #[test]
    fn answers_a_proxy_without_qop_and_leaves_the_unknown_alone() {
        let mut challenge = Response::new(407);
        challenge.headers.push(HeaderName::ProxyAuthenticate, "Basic realm=\"x\"");
        challenge
            .headers
            .push(HeaderName::ProxyAuthenticate, "digest realm=\"x\", nonce=\"n\", opaque=\"o,p\"");
        let (name, value) =
            answer(&challenge, &request(Method::Invite), &credentials("secret"), "c").unwrap();
        assert_eq!(name, HeaderName::ProxyAuthorization);
        assert!(value.contains("opaque=\"o,p\"") && !value.contains("qop"), "{value}");

        let mut foreign = Response::new(401);
        foreign
            .headers
            .push(HeaderName::WwwAuthenticate, "Digest realm=\"x\", nonce=\"n\", qop=\"auth-int\"");
        assert_eq!(answer(&foreign, &request(Method::Bye), &credentials("s"), "c"), None);
    }
}
