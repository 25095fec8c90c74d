//! Links the stand-in as a user-mode DLL: Wine calls `DllMain` of such a one, and loads it as a driver's import all the
//! same.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("windows") {
        for argument in ["/SUBSYSTEM:WINDOWS", "/ENTRY:DllMain", "/NODEFAULTLIB"] {
            println!("cargo:rustc-cdylib-link-arg={argument}");
        }
    }
}
