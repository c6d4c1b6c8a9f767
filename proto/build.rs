//! Compiles `schema/` with a pure-Rust compiler; no protoc.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "schema/voxmesh/control/v1/access.proto",
        "schema/voxmesh/control/v1/cluster.proto",
        "schema/voxmesh/control/v1/compliance.proto",
        "schema/voxmesh/control/v1/control.proto",
        "schema/voxmesh/control/v1/numbers.proto",
        "schema/voxmesh/control/v1/porting.proto",
        "schema/voxmesh/control/v1/tenants.proto",
        "schema/voxmesh/call/v1/call.proto",
        "schema/voxmesh/raft/v1/raft.proto",
    ];
    println!("cargo:rerun-if-changed=schema");
    let descriptors = protox::compile(files, ["schema"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("schema.bin"), descriptors.encode_to_vec())?;
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .compile_fds(descriptors)?;
    Ok(())
}
