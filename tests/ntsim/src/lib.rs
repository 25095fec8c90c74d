//! The simulated kernel: everything that weir's `sys` names, on any OS, with a verifier.
//!
//! It follows the documentation of the Windows driver kit, not one implementation of it: each rule names its page. The
//! functions that a driver calls are in [`sys`], under their own names. A test boots a machine, loads a driver through
//! its DriverEntry, and reads the verifier's report:
//!
//! ```
//! use ntsim::sys::nt::{NTSTATUS, PDRIVER_OBJECT, PUNICODE_STRING, STATUS_SUCCESS};
//!
//! unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}
//! unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
//!     unsafe { (*driver).DriverUnload = Some(unload) };
//!     STATUS_SUCCESS
//! }
//!
//! let sim = ntsim::boot(ntsim::Config::default());
//! sim.load_driver("sample", entry).unwrap().unload();
//! assert!(sim.report().is_clean());
//! ```

extern crate alloc;

pub mod boot;
pub mod bugcheck;
pub mod clock;
pub mod debug;
mod device;
mod dispatcher;
pub mod driver;
pub mod fault;
pub mod file;
pub mod irp;
pub mod irql;
mod lock;
pub mod nmr;
mod object;
pub mod pool;
pub mod processors;
mod random;
mod rcu;
pub mod registry;
mod rt;
pub mod security;
pub mod shutdown;
pub mod sys;
pub mod tcpip;
mod threads;
pub mod verify;
pub mod wfp;
pub mod wsk;

pub use boot::{Config, Sim, boot};
pub use clock::Clock;
pub use driver::Driver;
pub use processors::Topology;
