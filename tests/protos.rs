//! The committed gRPC code of the kubelet is what its `.proto` files generate. `PACKHORSE_WRITE_PROTOS=1 cargo test --test packhorse protos` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn the_committed_code_is_what_the_protos_generate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, package) in [("device_plugin", "v1beta1"), ("pod_resources", "v1")] {
        let out = tempfile::tempdir().expect("a directory");
        let files = protox::compile([format!("{name}.proto")], [root.join("tests/protos")]).expect("a valid proto");
        tonic_prost_build::configure()
            .out_dir(out.path())
            .btree_map(".")
            .compile_fds(files)
            .expect("code is generated");
        let generated = fs::read_to_string(out.path().join(format!("{package}.rs"))).expect("generated code");
        let committed = root.join(format!("src/kubelet_api/{name}.rs"));
        if std::env::var_os("PACKHORSE_WRITE_PROTOS").is_some() {
            fs::write(&committed, &generated).expect("the source can be written");
        }
        let text = fs::read_to_string(&committed).expect("committed code");
        assert!(text == generated, "{} differs from what {name}.proto generates", committed.display());
    }
}
