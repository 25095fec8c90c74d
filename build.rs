//! Sets the cfg `kernel` where there is a kernel to compile against. Without one, only the pure modules
//! (policy, ring, configuration schema, events) are built, so that tools can share them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(kernel)");
    if std::env::var_os("CARGO_FEATURE_SIM").is_some() {
        println!("cargo::rustc-cfg=kernel");
    }
}
