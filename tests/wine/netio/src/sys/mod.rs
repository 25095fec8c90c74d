//! The binary interfaces that the module stands between: NT's, Winsock Kernel's and the Network Module Registrar's. The
//! latter two are the driver's own declarations.

pub mod nmr;
pub mod nt {
    //! NT's types and statuses, as the driver's declarations want them.
    pub use wine_support::nt::*;
}
pub mod wsk;
