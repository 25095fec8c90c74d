//! weir: a network callout driver for Windows.
//!
//! A weir is a low dam that measures and steers a river. This one sits in the Windows Filtering Platform: it decides on
//! every connection by a policy, counts what each carries, and is steered over its own control socket, which lives in
//! the kernel like the rest of it.
//!
//! # Principles
//! - **Nothing fails by panicking or by running out of memory.** There is no `alloc`; pool memory is fallible
//!   ([`kernel::pool`]), and no path behind DriverEntry unwraps, indexes or overflows: lints deny it.
//! - **IRQL is a type** ([`kernel::irql`]): what may wait, and what may not, is a question for the compiler.
//! - **What the kernel holds never moves, and dies in one fixed order** ([`driver`]). Unload returns when all of it is
//!   gone.
//! - **One source.** The driver calls the kernel by its own names ([`sys`]); under the feature `sim` these are the
//!   simulated kernel's, so that what ships is what the tests run.
//! - **`unsafe` is at the edges**: a callback from the kernel is a few lines that check and build typed arguments;
//!   behind them the code is safe.
//!
//! # The house
//! | module | what | kernel |
//! | --- | --- | --- |
//! | [`driver`] | the order of start and stop; owns every part | yes |
//! | [`guard`] | what keeps it from keeping a machine from booting | yes |
//! | [`dump`] | what it leaves in a crash dump | layout: no |
//! | [`control`] | the control socket, and its protocol | protocol: no |
//! | [`wfp`] | engine session, callouts, classification | yes |
//! | [`board`] | how the driver stands as a whole | yes |
//! | [`dispatch`] | the dispatcher's thread; from records to events | yes |
//! | [`flow`] | identity and life of a connection | yes |
//! | [`ext`] | extension interfaces of control connections | yes |
//! | [`wsk`] | Winsock Kernel sockets | yes |
//! | [`kernel`] | safe primitives over [`sys`] | yes |
//! | [`sys`] | the kernel's binary interface | yes |
//! | [`config`] | the registry's schema, and reading it | schema: no |
//! | [`policies`] | the policy in force, commit-confirm, and the store | yes |
//! | [`policy`] | the policy image: validate, look up, explain | no |
//! | [`ring`] | the dispatch ring | no |
//! | [`trace`] | the table of events | no |
//! | `image` | what the linker and a panic need, in the image alone | yes |
//!
//! Modules depend downwards only. Those without the kernel are built on every target, and shared with the tools.
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

#[cfg(image)]
mod image;

pub mod config;
pub mod control;
pub mod dump;
pub mod policy;
pub mod ring;
pub mod trace;

#[cfg(kernel)]
pub mod board;
#[cfg(kernel)]
pub mod dispatch;
#[cfg(kernel)]
pub mod driver;
#[cfg(kernel)]
pub mod ext;
/// Its lock-free state machines, for their models.
#[cfg(all(loom, test, not(kernel)))]
mod ext {
    mod door;
    mod gate;
}
#[cfg(kernel)]
pub mod flow;
#[cfg(kernel)]
pub mod guard;
#[cfg(kernel)]
pub mod kernel;
#[cfg(kernel)]
pub mod policies;
#[cfg(kernel)]
pub mod sys;
#[cfg(kernel)]
pub mod wfp;
#[cfg(kernel)]
pub mod wsk;

/// Where the kernel enters the driver, once. Everything but the way out is in [`driver`].
///
/// # Safety
/// For the I/O manager to call, with the driver's object and the path of the service's registry key, at
/// PASSIVE_LEVEL.
#[cfg(kernel)]
#[expect(non_snake_case, reason = "the name that the linker is told")]
pub unsafe extern "system" fn DriverEntry(
    object: *mut sys::nt::DRIVER_OBJECT,
    registry_path: *mut sys::nt::UNICODE_STRING,
) -> sys::nt::NTSTATUS {
    // SAFETY: DriverEntry runs at PASSIVE_LEVEL.
    let mut passive = unsafe { kernel::irql::Passive::assume() };
    // SAFETY: the I/O manager's own string, which stays for the time of this call.
    let service = unsafe { kernel::string::UnicodeStr::units(registry_path) };
    // SAFETY: the I/O manager's own object.
    if let Err(status) = unsafe { driver::start(&mut passive, object, service) } {
        return status.0;
    }
    // SAFETY: the driver's own object, which is there until DriverUnload has returned.
    if let Some(object) = unsafe { object.as_mut() } {
        object.DriverUnload = Some(unload);
    }
    sys::nt::STATUS_SUCCESS
}

/// DriverUnload.
#[cfg(kernel)]
unsafe extern "C" fn unload(_object: *mut sys::nt::DRIVER_OBJECT) {
    // SAFETY: DriverUnload runs at PASSIVE_LEVEL.
    let mut passive = unsafe { kernel::irql::Passive::assume() };
    driver::stop(&mut passive);
}
