//! The schema itself, for those who ask which services, methods and fields there are.
//!
//! Reads just enough of the compiled descriptors (google/protobuf/descriptor.proto); the messages
//! of that file are well known and never change.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost::Message;

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, optional, tag = "2")]
    package: Option<String>,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageType {
    #[prost(message, repeated, tag = "2")]
    field: Vec<Named>,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<MessageType>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
}

struct Schema {
    methods: Vec<String>,
    fields: BTreeSet<String>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // Written by our own build; without it there would be no generated code either.
    let files = FileSet::decode(DESCRIPTORS).unwrap_or_default().file;
    let mut schema = Schema { methods: Vec::new(), fields: BTreeSet::new() };
    for file in &files {
        for service in &file.service {
            let name = service.name.as_deref().unwrap_or_default();
            let package = file.package.as_deref().unwrap_or_default();
            schema.methods.extend(service.method.iter().map(|method| {
                format!("/{package}.{name}/{}", method.name.as_deref().unwrap_or_default())
            }));
        }
        file.message_type.iter().for_each(|message| gather(message, &mut schema.fields));
    }
    schema
});

fn gather(message: &MessageType, fields: &mut BTreeSet<String>) {
    fields.extend(message.field.iter().filter_map(|field| field.name.clone()));
    message.nested_type.iter().for_each(|nested| gather(nested, fields));
}

/// Every method as gRPC's `:path` has it: `/voxmesh.control.v1.Numbers/Get`.
pub fn methods() -> &'static [String] {
    &SCHEMA.methods
}

/// The name of every field of every message.
pub fn fields() -> &'static BTreeSet<String> {
    &SCHEMA.fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_fields_are_found() {
        assert!(methods().iter().any(|path| path == "/voxmesh.control.v1.Numbers/Get"));
        assert!(methods().iter().any(|path| path == "/voxmesh.raft.v1.Peer/Stream"));
        assert!(fields().contains("e164") && fields().contains("silent_ms"));
    }
}
