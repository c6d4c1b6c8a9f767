//! Who a certificate speaks for: SPIFFE-style URIs in the subject alternative name.
//!
//! `spiffe://<mesh>/<region>/<pop|control|operator|service>/<name>`. Reading certificates is the shells'
//! work; this is only the name.

use crate::id::{IdError, PopId};

/// What kind of party a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A control node; the name is its node id.
    Control,
    /// A person or program that operates the mesh.
    Operator,
    /// A POP; the name is its id.
    Pop,
    /// A program of a tenant or of the operator.
    Service,
}

impl Kind {
    /// The path segment of this kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Operator => "operator",
            Self::Pop => "pop",
            Self::Service => "service",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, IdentityError> {
        match s {
            "control" => Ok(Self::Control),
            "operator" => Ok(Self::Operator),
            "pop" => Ok(Self::Pop),
            "service" => Ok(Self::Service),
            _ => Err(IdentityError::Kind),
        }
    }
}

/// Why a URI names nobody in a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The kind is none of ours.
    #[error("the kind of identity is not pop, control, operator or service")]
    Kind,
    /// A segment is not a valid name.
    #[error("a part of the identity {0}")]
    Name(#[from] IdError),
    /// Not of the form we issue.
    #[error("is not spiffe://<mesh>/<region>/<pop|control|operator|service>/<name>")]
    Shape,
}

/// A party of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The mesh's name; identities of other meshes are refused.
    pub mesh: String,
    /// What it is.
    pub kind: Kind,
    /// Its name: POP id, node id or operator name.
    pub name: String,
    /// The region it belongs to.
    pub region: String,
}

impl Identity {
    /// Checks the parts: each is an RFC 1123 label.
    pub fn new(mesh: &str, region: &str, kind: Kind, name: &str) -> Result<Self, IdentityError> {
        for part in [mesh, region, name] {
            PopId::new(part)?;
        }
        Ok(Self { mesh: mesh.into(), kind, name: name.into(), region: region.into() })
    }

    /// Reads a URI.
    pub fn parse_uri(uri: &str) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(IdentityError::Shape)?;
        let mut parts = rest.split('/');
        let (Some(mesh), Some(region), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Shape);
        };
        Self::new(mesh, region, kind.parse()?, name)
    }

    /// Writes the URI.
    pub fn to_uri(&self) -> String {
        format!("spiffe://{}/{}/{}/{}", self.mesh, self.region, self.kind.as_str(), self.name)
    }

    /// Short form for audit and authorisation: `pop/fra1`.
    pub fn principal(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.name)
    }

    /// The DNS names a certificate of this identity carries.
    pub fn dns_names(&self) -> Vec<String> {
        match self.kind {
            Kind::Control => {
                vec![CONTROL_DNS_NAME.into(), format!("{}.control.voxmesh", self.name)]
            }
            Kind::Operator => vec![format!("{}.operator.voxmesh", self.name)],
            Kind::Pop => vec![pop_dns_name(&self.name)],
            Kind::Service => vec![format!("{}.service.voxmesh", self.name)],
        }
    }
}

/// What clients of the control plane verify, whichever node answers.
pub const CONTROL_DNS_NAME: &str = "control.voxmesh";

/// What a POP verifies when it dials another.
pub fn pop_dns_name(pop: &str) -> String {
    format!("{pop}.pop.voxmesh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_party_and_back() {
        let fra1 = Identity::parse_uri("spiffe://demo/eu/pop/fra1").unwrap();
        assert_eq!(fra1.principal(), "pop/fra1");
        assert_eq!(fra1.to_uri(), "spiffe://demo/eu/pop/fra1");
        assert_eq!(fra1.dns_names(), ["fra1.pop.voxmesh"]);
    }

    #[test]
    fn other_uris_are_refused() {
        for (uri, error) in [
            ("https://demo/eu/pop/fra1", IdentityError::Shape),
            ("spiffe://demo/eu/pop", IdentityError::Shape),
            ("spiffe://demo/eu/pop/fra1/x", IdentityError::Shape),
            ("spiffe://demo/eu/king/fra1", IdentityError::Kind),
            ("spiffe://demo/eu/pop/FRA1", IdentityError::Name(IdError::Character('F'))),
        ] {
            assert_eq!(Identity::parse_uri(uri), Err(error), "{uri}");
        }
    }
}
