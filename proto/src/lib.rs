//! Every word that crosses a Voxmesh process boundary: schemas, ids, numbers, time, datagrams.
//!
//! Pure: no clock, socket, disk or RNG. The gRPC clients and servers are behind the feature
//! `grpc`, which only shells switch on.
#![warn(missing_docs)]

pub mod e164;
pub mod id;
pub mod identity;
pub mod numbering;
pub mod overlay;
pub mod schema;
pub mod time;

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            elided_lifetimes_in_paths,
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::indexing_slicing,
            clippy::unwrap_used,
            clippy::too_many_lines,
            reason = "generated code"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    };
}

/// Generated packages, nested as their names are, because they refer to each other by path.
pub mod voxmesh {
    /// `voxmesh.control`
    pub mod control {
        generated! {
            /// The control plane's public API (`schema/voxmesh/control/v1`).
            v1, "voxmesh.control.v1"
        }
    }
    /// `voxmesh.call`
    pub mod call {
        generated! {
            /// Call signaling between POPs (`schema/voxmesh/call/v1`).
            v1, "voxmesh.call.v1"
        }
    }
    /// `voxmesh.raft`
    pub mod raft {
        generated! {
            /// Between control nodes, and the log (`schema/voxmesh/raft/v1`).
            v1, "voxmesh.raft.v1"
        }
    }
}

pub use voxmesh::call::v1 as call;
pub use voxmesh::control::v1 as control;
pub use voxmesh::raft::v1 as raft;
