//! The binary interfaces that the module stands between: NT's, Winsock Kernel's, the Network Module Registrar's, and the one
//! that vendors' modules and the driver have for each other. All but NT's are the driver's own declarations.

pub mod module;
pub mod nmr;
pub mod nt {
    //! NT's types and statuses, as the driver's declarations want them.
    pub use wine_support::nt::*;
}
pub mod wsk;
