//! The arguments.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use crate::values::{Pages, Read};

/// Operates a Voxmesh: status, POPs, trunks, routes, numbers, tenants, roles, certificates.
#[derive(Parser)]
#[command(name = "meshctl", version, arg_required_else_help = true)]
#[command(after_help = "Connection flags may also come from the file of --config (endpoints, ca, \
    cert, key) or from VOXMESH_CONFIG, VOXMESH_ENDPOINT, VOXMESH_CA, VOXMESH_CERT, VOXMESH_KEY. \
    A flag wins over the environment, the environment over the file. Exit codes: 0 done, 1 refused, \
    2 wrong arguments, 3 no control node could be reached or answered: trying again is safe.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Default)]
pub(crate) struct Connection {
    /// TOML file with endpoints, ca, cert, key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Control nodes, tried in turn
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) endpoint: Vec<String>,
    /// The mesh's authority, ca.pem (pki issue: the directory of `pki init`)
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) ca: Option<PathBuf>,
    /// Your certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// How to print
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// How long to go on trying, in seconds
    #[arg(long, global = true, default_value_t = 15, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show how each control node stands; exits 0 if there is a leader and a majority answers
    Status,
    /// The control nodes: members, leader, feature level, backups, recovery
    #[command(subcommand)]
    Control(crate::control::Control),
    /// List the POPs and whether they are heard
    Pops(Read),
    /// POPs: list them, cordon one, drain it, let it take calls again
    #[command(subcommand)]
    Pop(crate::pops::Pop),
    /// Calls: list them, show one, and whether it would survive the loss of its POP
    #[command(subcommand, alias = "calls")]
    Call(crate::calls::Call),
    /// What a drill would do, before it is run
    #[command(subcommand)]
    Drill(crate::calls::Drill),
    /// How POPs reach each other: which path carries calls, how good it is, and why
    #[command(subcommand, alias = "paths")]
    Path(crate::paths::Path),
    /// Carrier and PBX connections
    #[command(subcommand)]
    Trunks(Trunks),
    /// Which prefix leaves through which trunk
    #[command(subcommand)]
    Routes(Routes),
    /// The number inventory
    #[command(subcommand)]
    Numbers(crate::numbers::Numbers),
    /// Who owns numbers, and how many
    #[command(subcommand)]
    Tenants(crate::tenants::Tenants),
    /// Numbers that come from or go to other carriers
    #[command(subcommand)]
    Porting(crate::porting::Porting),
    /// What countries ask for, and what tenants have shown
    #[command(subcommand)]
    Compliance(crate::compliance::Compliance),
    /// Who may do what: roles and who has them
    #[command(subcommand)]
    Roles(crate::roles::Roles),
    /// Join tokens: let new machines in
    #[command(subcommand)]
    Token(crate::tokens::Tokens),
    /// Who changed what: list, export, verify the chain
    #[command(subcommand)]
    Audit(crate::audit::Audit),
    /// An own authority and certificates for nodes and operators
    #[command(subcommand)]
    Pki(Pki),
    /// Print a completion script for a shell
    #[command(
        alias = "completion",
        after_help = "Example, for this shell only:
  source <(meshctl completions bash)"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args, Clone)]
pub(crate) struct Write {
    /// Repeat an earlier write safely: the same id takes effect once [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Change nothing: make all checks and show what would happen
    #[arg(long, conflicts_with = "request_id")]
    pub(crate) dry_run: bool,
}

#[derive(Subcommand)]
pub(crate) enum Trunks {
    /// List
    List {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Create or replace one, from flags or a file
    Put(Box<PutTrunk>),
    /// Delete one that no route uses
    Delete {
        /// Its id
        id: String,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Args)]
pub(crate) struct PutTrunk {
    /// Its id (not with --file, where it is in the file)
    #[arg(required_unless_present = "file")]
    pub(crate) id: Option<String>,
    /// TOML or JSON file with the fields `trunks list --output json` shows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "pop", "host", "port",
        "transport", "source", "codec", "srtp", "low_bandwidth", "noise_suppression", "max_calls", "default_region", "outbound_auth",
        "inbound_auth"])]
    pub(crate) file: Option<PathBuf>,
    /// POPs that reach it, in order of preference
    #[arg(long, value_delimiter = ',', value_name = "POP,…")]
    pub(crate) pop: Vec<String>,
    /// Where INVITEs go; without it, only inbound calls
    #[arg(long, default_value = "")]
    pub(crate) host: String,
    /// Its port [default: 5060, or SRV of a host name]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) port: u16,
    /// SIP over UDP or TCP
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    pub(crate) transport: Transport,
    /// Addresses or CIDR blocks it calls from; without one, no inbound calls
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS,…")]
    pub(crate) source: Vec<String>,
    /// Codecs in order of preference: opus, G722, PCMU, PCMA [default: all]
    #[arg(long, value_delimiter = ',', value_name = "CODEC,…")]
    pub(crate) codec: Vec<String>,
    /// SRTP: accepted when it offers it, offered (plain is fine too), or required; upgrade its POPs
    /// first
    #[arg(long, value_enum, default_value_t = Srtp::Accepted)]
    pub(crate) srtp: Srtp,
    /// Its link carries little (2G): Opus at 10 kb/s, long packets, with copies if it takes them
    #[arg(long)]
    pub(crate) low_bandwidth: bool,
    /// Suppress the noise in what comes from it; its calls are decoded and encoded for that
    #[arg(long)]
    pub(crate) noise_suppression: bool,
    /// Calls at once per POP, 0 for no limit
    #[arg(long, default_value_t = 0)]
    pub(crate) max_calls: u32,
    /// Country whose national numbers it dials, such as DE [default: E.164 only]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "COUNTRY")]
    pub(crate) default_region: String,
    /// Answer its digest challenges with this (keep passwords in a --file instead)
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) outbound_auth: Option<String>,
    /// Challenge its INVITEs and want this
    #[arg(long, value_name = "USER:PASSWORD[:REALM]")]
    pub(crate) inbound_auth: Option<String>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Srtp {
    Accepted,
    Offered,
    Required,
}

#[derive(Subcommand)]
pub(crate) enum Routes {
    /// List
    List {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Create or replace one, from flags or a file
    Put(PutRoute),
    /// Delete one
    Delete {
        /// Its id
        id: String,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Args)]
pub(crate) struct PutRoute {
    /// Its id (not with --file, where it is in the file)
    #[arg(required_unless_present = "file")]
    pub(crate) id: Option<String>,
    /// TOML or JSON file with the fields `routes list --output json` shows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "prefix", "to"])]
    pub(crate) file: Option<PathBuf>,
    /// Digits of an E.164 prefix [default: the default route]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Trunks, tried by priority (lower first), shared by weight
    #[arg(long, value_delimiter = ',', value_name = "TRUNK[:PRIORITY[:WEIGHT]],…")]
    pub(crate) to: Vec<String>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Subcommand)]
pub(crate) enum Pki {
    /// Make the authority of a new mesh: ca.pem and ca.key
    Init {
        /// Name of the mesh
        #[arg(long)]
        mesh: String,
        /// Directory to write to; ca.key signs everything, keep it offline
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Issue a certificate from --ca DIR: NAME.pem and NAME.key (control nodes: control-ID.pem)
    Issue {
        /// For what
        #[arg(long, value_enum)]
        kind: KindArg,
        /// POP id, control node's number, or operator's name
        #[arg(long)]
        name: String,
        /// Where it stands
        #[arg(long)]
        region: String,
        /// Addresses for clients that verify those
        #[arg(long, value_delimiter = ',', value_name = "ADDRESS,…")]
        ip: Vec<IpAddr>,
        /// Days of validity
        #[arg(long, default_value_t = control_plane::pki::LEAF_DAYS,
            value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Directory to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Replace existing files
        #[arg(long)]
        force: bool,
    },
    /// Replace your own certificate (--cert, --key) by a new one while it is still valid
    Renew,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KindArg {
    Control,
    Operator,
    Pop,
    Service,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn connection_flags_work_before_and_after_the_subcommand() {
        for line in
            ["meshctl --endpoint a:1,b:2 --ca x status", "meshctl status --endpoint a:1,b:2 --ca x"]
        {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.connection.endpoint, ["a:1", "b:2"]);
            assert_eq!(cli.connection.ca, Some(PathBuf::from("x")));
        }
    }
}
