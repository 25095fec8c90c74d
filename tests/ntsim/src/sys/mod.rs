pub mod cng;
pub mod fwp;
pub mod nmr;
pub mod nt;
pub mod wsk;
