//! Arguments of `meshctl numbers`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::control::Tag;

use crate::cli::Write;
use crate::values::{Expected, Filter, Pages, Read, Shown, State, Type, duration_ms, tag};

/// Two of these are never used at once, so their size does not matter.
#[derive(Subcommand)]
pub(crate) enum Numbers {
    /// Add numbers to a pool, from the line, a list or a CSV
    Import(Import),
    /// Add a range of numbers at once: millions cost no more than one
    ImportBlock(ImportBlock),
    /// List the ranges numbers came in
    Blocks {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Count the numbers of each pool by state
    Pools(Read),
    /// Give numbers to a tenant: named ones, any that fit, or a reservation
    Allocate(Box<Allocate>),
    /// Give a released number back to its last owner, before its quarantine ends
    Reclaim {
        /// "+" and digits
        number: String,
        /// Its last owner
        #[arg(long)]
        tenant: String,
        /// Trunks its calls leave through
        #[arg(long, value_delimiter = ',', value_name = "TRUNK[:PRIORITY[:WEIGHT]],…")]
        to: Vec<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Hold free numbers for a tenant for a while
    Reserve(Reserve),
    /// What is held: list, show, extend, cancel
    #[command(subcommand)]
    Reservations(Reservations),
    /// Put a pending number to use, when its country's requirements are met
    Activate {
        /// "+" and digits
        number: String,
        /// Its owner
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        write: Write,
    },
    /// Take a pending number back
    Reject(One),
    /// Take a number back; it rests in quarantine
    Release {
        /// "+" and digits
        number: String,
        /// Its owner
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        write: Write,
    },
    /// Give a number to another tenant, without a rest
    Transfer {
        /// "+" and digits
        number: String,
        /// Its owner
        #[arg(long, value_name = "TENANT")]
        from: String,
        /// The new one
        #[arg(long, value_name = "TENANT")]
        to: String,
        #[command(flatten)]
        shown: Shown,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        write: Write,
    },
    /// Stop the calls of a number; it keeps its owner
    Suspend {
        /// Why: "unpaid", "abuse"
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        one: One,
    },
    /// Let the calls of a suspended number go on
    Resume(One),
    /// Change the trunks and tags of a number
    Update {
        /// "+" and digits
        number: String,
        /// Its owner
        #[arg(long)]
        tenant: String,
        /// Trunks its calls leave through, instead of those it has
        #[arg(long, value_delimiter = ',', value_name = "TRUNK[:PRIORITY[:WEIGHT]],…")]
        to: Option<Vec<String>>,
        /// Tags, instead of those it has
        #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,…", value_parser = tag)]
        tag: Option<Vec<Tag>>,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        write: Write,
    },
    /// Keep numbers from use: test, emergency, fictitious, recall
    Block {
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        range: Range,
        /// Where to put those that are not in the inventory yet
        #[command(flatten)]
        filter: Filter,
    },
    /// Let blocked numbers be used
    Unblock(Range),
    /// Return numbers to their carrier
    Decommission(Range),
    /// Show one
    Get {
        /// "+" and digits
        number: String,
        #[command(flatten)]
        read: Read,
    },
    /// List numbers that fit
    #[command(alias = "search")]
    List(Box<List>),
    /// Look at some free numbers, without holding them
    Available {
        #[command(flatten)]
        filter: Filter,
        /// That begin with these digits (with country code)
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        /// So many
        #[arg(long, default_value_t = 10)]
        count: u32,
        #[command(flatten)]
        read: Read,
    },
    /// Say which number a tenant would show when it calls a destination
    CallerId {
        /// "+" and digits
        destination: String,
        /// Who calls
        #[arg(long)]
        tenant: String,
        /// Of these types only [default: all but toll-free]
        #[arg(long = "type", value_enum, value_delimiter = ',', value_name = "TYPE,…")]
        types: Vec<Type>,
        /// Without a number of the destination's country: of one of these, in this order
        #[arg(long, value_delimiter = ',', value_name = "ISO,…")]
        fallback: Vec<String>,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl numbers import --pool de +4930123456 +4930123457
  meshctl numbers import --pool de --file numbers.txt
  meshctl numbers import --csv blocks.csv --pool de

A CSV has a head; columns are number (or first), count (or last), pool, country, area, type,
carrier, tags (a=b;c=d). What a line leaves open comes from the flags, then from the numbering plan.
Each batch is taken whole or not at all, and once: after an interruption, the same command goes on
where it stopped.")]
pub(crate) struct Import {
    /// "+" and digits
    pub(crate) numbers: Vec<String>,
    /// One number a line, "-" for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    pub(crate) file: Option<PathBuf>,
    /// Numbers and ranges with a head, "-" for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "numbers")]
    pub(crate) csv: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shelf: Filter,
    /// Tags of all of them
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,…", value_parser = tag)]
    pub(crate) tag: Vec<Tag>,
    /// Lines or ranges of one request
    #[arg(long, default_value_t = 10_000, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
    /// Names this import: the same batch under the same name is taken once
    #[arg(long, default_value = "1", value_name = "NAME")]
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
#[command(after_help = "Example:
  meshctl numbers import-block +49301230000 --count 10000 --pool de --carrier telco

Country, area and type come from the numbering plan unless they are given.")]
pub(crate) struct ImportBlock {
    /// The first one, "+" and digits
    pub(crate) first: String,
    /// So many
    #[arg(long)]
    pub(crate) count: u64,
    #[command(flatten)]
    pub(crate) shelf: Filter,
    /// Tags of all of them
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,…", value_parser = tag)]
    pub(crate) tag: Vec<Tag>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl numbers allocate +4930123456 --tenant acme --to carrier-de
  meshctl numbers allocate --any de --tenant acme
  meshctl numbers allocate --country DE --type mobile --count 50 --tenant acme
  meshctl numbers allocate --reservation res-7 --tenant acme

Several are all allocated, or none.")]
pub(crate) struct Allocate {
    /// These
    pub(crate) numbers: Vec<String>,
    /// Any free one of this pool (as --pool)
    #[arg(long, value_name = "POOL", conflicts_with_all = ["numbers", "pool"])]
    pub(crate) any: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Any that begin with these digits (with country code)
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "numbers")]
    pub(crate) prefix: String,
    /// So many
    #[arg(long, default_value_t = 1, conflicts_with = "numbers")]
    pub(crate) count: u32,
    /// Those of this reservation, or the named ones of it
    #[arg(long, value_name = "ID")]
    pub(crate) reservation: Option<String>,
    /// The new owner
    #[arg(long)]
    pub(crate) tenant: String,
    /// Trunks their calls leave through
    #[arg(long, value_delimiter = ',', value_name = "TRUNK[:PRIORITY[:WEIGHT]],…")]
    pub(crate) to: Vec<String>,
    /// Their tags
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,…", value_parser = tag)]
    pub(crate) tag: Vec<Tag>,
    #[command(flatten)]
    pub(crate) shown: Shown,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl numbers reserve +4930123456 --tenant acme
  meshctl numbers reserve --pool de --count 10 --for 2h --tenant acme")]
pub(crate) struct Reserve {
    /// These
    pub(crate) numbers: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Any that begin with these digits (with country code)
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "numbers")]
    pub(crate) prefix: String,
    /// So many
    #[arg(long, default_value_t = 1, conflicts_with = "numbers")]
    pub(crate) count: u32,
    /// For whom
    #[arg(long)]
    pub(crate) tenant: String,
    /// How long [default: as the country's policy says, else 30m]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_ms)]
    pub(crate) duration: Option<u64>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Subcommand)]
pub(crate) enum Reservations {
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
    /// Show one
    Get {
        /// Its id
        id: String,
        #[command(flatten)]
        read: Read,
    },
    /// Hold longer, at most twice
    Extend {
        /// Its id
        id: String,
        /// For whom it is
        #[arg(long)]
        tenant: String,
        /// How long from now on
        #[arg(long = "for", value_name = "DURATION", value_parser = duration_ms)]
        duration: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// Let go what it holds
    Cancel {
        /// Its id
        id: String,
        /// For whom it is
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Args)]
pub(crate) struct One {
    /// "+" and digits
    pub(crate) number: String,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
pub(crate) struct Range {
    /// "+" and digits
    pub(crate) number: String,
    /// So many from this one on
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
#[command(after_help = "Examples:
  meshctl numbers list --tenant acme --all
  meshctl numbers list --country DE --type toll-free --state available
  meshctl numbers search --prefix 4930 --tag customer=4711")]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only in this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<State>,
    /// Only of this owner, or last owner
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Only those that begin with these digits (with country code)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Only with this tag
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = tag)]
    pub(crate) tag: Option<Tag>,
    #[command(flatten)]
    pub(crate) pages: Pages,
    #[command(flatten)]
    pub(crate) read: Read,
}
