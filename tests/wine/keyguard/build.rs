//! Links the program without a C run-time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("windows") {
        for argument in ["/SUBSYSTEM:CONSOLE", "/ENTRY:start", "/NODEFAULTLIB"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
