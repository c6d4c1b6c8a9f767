//! The text of a join token: mesh, the authority's fingerprint, where to go, and a secret.
//!
//! `vxj1-` and base64url (RFC 4648 §5) of `JoinToken`. Who holds it is let in once, so it is
//! printed in full in one place only, where it is made.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use proto::control::JoinToken;
use sha2::{Digest, Sha256};

/// What every token begins with.
const PREFIX: &str = "vxj1-";
/// Longest text: no token is longer.
const TEXT_MAX: usize = 4_096;

/// A join token.
#[derive(Clone, PartialEq)]
pub struct Token(JoinToken);

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether, or cut off.
    #[error("this is no join token: it begins with \"vxj1-\" and is one line; copy all of it")]
    Form,
    /// A field is missing.
    #[error("this join token is damaged: have a new one made (meshctl token create)")]
    Damaged,
}

impl Token {
    /// From its parts.
    pub fn new(
        mesh: &str,
        ca_sha256: &[u8],
        endpoints: Vec<String>,
        secret: [u8; 32],
    ) -> Result<Self, TokenError> {
        let (mesh, ca_sha256, secret) = (mesh.into(), ca_sha256.to_vec(), secret.to_vec());
        Self::checked(JoinToken { mesh, ca_sha256, endpoints, secret })
    }

    fn checked(token: JoinToken) -> Result<Self, TokenError> {
        let ok = !token.mesh.is_empty()
            && token.ca_sha256.len() == 32
            && token.secret.len() == 32
            && !token.endpoints.is_empty();
        if ok { Ok(Self(token)) } else { Err(TokenError::Damaged) }
    }

    /// The mesh it opens.
    pub fn mesh(&self) -> &str {
        &self.0.mesh
    }

    /// SHA-256 of the authority's certificate.
    pub fn ca_sha256(&self) -> &[u8] {
        &self.0.ca_sha256
    }

    /// Where it is taken: host:port.
    pub fn endpoints(&self) -> &[String] {
        &self.0.endpoints
    }

    /// What proves it.
    pub fn secret(&self) -> &[u8] {
        &self.0.secret
    }

    /// What the mesh keeps of it.
    pub fn secret_sha256(&self) -> Vec<u8> {
        Sha256::digest(&self.0.secret).to_vec()
    }

    /// The whole text, secret included: for the one who makes it.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.encode_to_vec()))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).filter(|body| body.len() <= TEXT_MAX);
        let bytes = body.and_then(|body| URL_SAFE_NO_PAD.decode(body).ok());
        let token = JoinToken::decode(bytes.ok_or(TokenError::Form)?.as_slice());
        Self::checked(token.map_err(|_| TokenError::Damaged)?)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("mesh", &self.0.mesh).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_never_shown() {
        let token = Token::new("demo", &[7; 32], vec!["10.0.0.1:7001".into()], [9; 32]).unwrap();
        let text = token.to_text();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert_eq!(format!("{token:?}"), "Token { mesh: \"demo\", .. }");
    }

    #[test]
    fn other_texts_are_refused() {
        let token = Token::new("demo", &[7; 32], vec!["10.0.0.1:7001".into()], [9; 32]).unwrap();
        let text = token.to_text();
        assert_eq!("".parse::<Token>(), Err(TokenError::Form));
        assert_eq!("vxj1-???".parse::<Token>(), Err(TokenError::Form));
        assert!(text[..text.len() - 20].parse::<Token>().is_err());
        assert_eq!("vxj1-".parse::<Token>(), Err(TokenError::Damaged));
        assert!(Token::new("demo", &[7; 31], vec!["a:1".into()], [9; 32]).is_err());
    }
}
