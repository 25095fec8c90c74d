use wine_support::drive::{Outcome, Request};
pub(crate) fn handle(op: &str, _request: &Request) -> Outcome { Err(alloc::format!("unknown operation {op:?}")) }
