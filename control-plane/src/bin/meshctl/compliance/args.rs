//! Arguments of `meshctl compliance`.

use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::cli::Write;
use crate::values::{
    Address, EndUser, Expected, Kind, Pages, Read, Status, Type, duration_ms, moment_ms,
};

#[derive(Subcommand)]
pub(crate) enum Compliance {
    /// What numbers of a country and type need before they work
    #[command(subcommand)]
    Requirements(Requirements),
    /// How long numbers of a country and type rest and are held
    #[command(subcommand)]
    Policies(Policies),
    /// What tenants have shown: identity bundles, addresses, emergency addresses
    #[command(subcommand)]
    Records(Records),
    /// Show what countries commonly ask for, or store it to start from; no legal advice
    Defaults(Defaults),
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl compliance defaults --country DE,FR
  meshctl compliance defaults --country DE,FR --apply

The list comes with this program, is not complete and no legal advice: rules change and differ by
end user and carrier. What is stored already is kept, unless --replace is given; change it with
`compliance requirements put` and `compliance policies put`.")]
pub(crate) struct Defaults {
    /// Only these countries [default: all that are listed]
    #[arg(long, value_delimiter = ',', value_name = "ISO,…")]
    pub(crate) country: Vec<String>,
    /// Store them
    #[arg(long)]
    pub(crate) apply: bool,
    /// Also where something is stored already
    #[arg(long, requires = "apply")]
    pub(crate) replace: bool,
}

#[derive(Subcommand)]
pub(crate) enum Requirements {
    /// Store one
    Put(Box<PutRequirement>),
    /// Delete one
    Delete {
        /// ISO 3166-1, such as DE
        country: String,
        /// Of this type only; without it, the one of any type
        #[arg(long = "type", value_enum, value_name = "TYPE")]
        kind: Option<Type>,
        /// Of this end user only; without it, the one of everybody
        #[arg(long, value_enum)]
        end_user: Option<EndUser>,
        #[command(flatten)]
        write: Write,
    },
    /// List
    List {
        /// Only of this country
        #[arg(long, default_value = "", hide_default_value = true, value_name = "ISO")]
        country: String,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Args)]
#[command(after_help = "Example:
  meshctl compliance requirements put DE --type local --address local --bundle")]
pub(crate) struct PutRequirement {
    /// ISO 3166-1, such as DE
    pub(crate) country: String,
    /// Of this type [default: any]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Type>,
    /// Of this end user [default: everybody]
    #[arg(long, value_enum)]
    pub(crate) end_user: Option<EndUser>,
    /// Which address it needs: none, anywhere, in the country, in the number's area
    #[arg(long, value_enum, default_value_t = Address::None)]
    pub(crate) address: Address,
    /// Needs approved identity documents
    #[arg(long)]
    pub(crate) bundle: bool,
    /// Needs a validated address for emergency calls
    #[arg(long)]
    pub(crate) emergency_address: bool,
    /// A pending number goes back after so long [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    pub(crate) deadline: Option<u64>,
    /// For people: what is asked for, and by which law
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) note: String,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Subcommand)]
pub(crate) enum Policies {
    /// Store one
    Put(PutPolicy),
    /// Delete one
    Delete {
        /// ISO 3166-1, such as DE; "" for the default of the mesh
        country: String,
        /// Of this type only; without it, the one of any type
        #[arg(long = "type", value_enum, value_name = "TYPE")]
        kind: Option<Type>,
        #[command(flatten)]
        write: Write,
    },
    /// List
    List {
        /// Only of this country
        #[arg(long, default_value = "", hide_default_value = true, value_name = "ISO")]
        country: String,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl compliance policies put IN --type mobile --quarantine 90d
  meshctl compliance policies put \"\" --reservation 2h")]
pub(crate) struct PutPolicy {
    /// ISO 3166-1, such as DE; "" for the default of the mesh
    pub(crate) country: String,
    /// Of this type [default: any]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Type>,
    /// How long released numbers rest [default: 45d]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    pub(crate) quarantine: Option<u64>,
    /// How long a reservation holds [default: 30m]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    pub(crate) reservation: Option<u64>,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Subcommand)]
pub(crate) enum Records {
    /// Store one; the documents themselves are kept elsewhere
    Put(Box<PutRecord>),
    /// Delete one that no number refers to
    Delete {
        /// Its id
        id: String,
        #[command(flatten)]
        write: Write,
    },
    /// Show one
    Get {
        /// Its id
        id: String,
        #[command(flatten)]
        read: Read,
    },
    /// List
    List {
        /// Only of this tenant
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl compliance records put acme-id --tenant acme --kind bundle --country DE --status approved
  meshctl compliance records put acme-hq --tenant acme --kind address --country DE --area 30 \\
      --status approved")]
pub(crate) struct PutRecord {
    /// Its id
    pub(crate) id: String,
    /// Whose
    #[arg(long)]
    pub(crate) tenant: String,
    /// What it is
    #[arg(long, value_enum)]
    pub(crate) kind: Kind,
    /// How it stands
    #[arg(long, value_enum)]
    pub(crate) status: Status,
    /// Of a bundle: which numbers it is for; of an address: where it is
    #[arg(long, value_name = "ISO")]
    pub(crate) country: String,
    /// Of a bundle: for this type of numbers [default: any]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) number_type: Option<Type>,
    /// Of an address: its area, as numbers name it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) area: String,
    /// About whom it is
    #[arg(long, value_enum)]
    pub(crate) end_user: Option<EndUser>,
    /// Hash of the documents, in hex
    #[arg(long, value_name = "HEX")]
    pub(crate) content_hash: Option<Hex>,
    /// When it ends: RFC 3339, or +365d
    #[arg(long, value_name = "TIME", value_parser = moment_ms)]
    pub(crate) valid_until: Option<u64>,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

/// Bytes in hex.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl FromStr for Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        bytes.map(Self).ok_or_else(|| "is not pairs of hex digits".into())
    }
}
