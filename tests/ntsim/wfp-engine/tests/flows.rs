//! Pages: *FwpsFlowAssociateContext0*, *FwpsFlowRemoveContext0*, *flowDeleteFn*.

use wfp_engine::flow::{AssociateError, Contexts, Deleted, Removal};

const LAYER: u16 = 12;
const OTHER_LAYER: u16 = 16;
const CALLOUT: u32 = 0x100;

fn deleted(layer: u16, context: u64) -> Deleted {
    Deleted { layer, callout: CALLOUT, context }
}

#[test]
fn a_context_belongs_to_one_flow_layer_and_callout() {
    let mut flow = Contexts::new();
    flow.associate(LAYER, CALLOUT, 1).expect("there is none");
    flow.associate(OTHER_LAYER, CALLOUT, 2).expect("another layer");
    flow.associate(LAYER, CALLOUT + 1, 3).expect("another callout");
    assert_eq!(flow.acquire(LAYER, CALLOUT), 1);
    assert_eq!(flow.acquire(OTHER_LAYER, CALLOUT), 2);
    assert_eq!(flow.acquire(OTHER_LAYER, CALLOUT + 1), 0);
    assert_eq!(flow.associate(LAYER, CALLOUT, 4), Err(AssociateError::Exists));
}

#[test]
fn a_context_is_not_zero() {
    assert_eq!(Contexts::new().associate(LAYER, CALLOUT, 0), Err(AssociateError::Zero));
}

#[test]
fn removing_a_context_that_is_not_in_use_deletes_it_at_once() {
    let mut flow = Contexts::new();
    flow.associate(LAYER, CALLOUT, 1).expect("there is none");
    assert_eq!(flow.remove(LAYER, CALLOUT), Removal::Done(deleted(LAYER, 1)));
    assert_eq!(flow.remove(LAYER, CALLOUT), Removal::NotFound);
    assert_eq!(flow.acquire(LAYER, CALLOUT), 0);
}

#[test]
fn removing_a_context_in_use_is_pending_until_its_last_user_is_done() {
    let mut flow = Contexts::new();
    flow.associate(LAYER, CALLOUT, 1).expect("there is none");
    assert_eq!((flow.acquire(LAYER, CALLOUT), flow.acquire(LAYER, CALLOUT)), (1, 1));
    assert_eq!(flow.remove(LAYER, CALLOUT), Removal::Pending);
    assert_eq!(flow.acquire(LAYER, CALLOUT), 0, "nobody new gets it");
    flow.associate(LAYER, CALLOUT, 2).expect("the old one is removed");
    assert_eq!(flow.release(LAYER, CALLOUT, 1), None);
    assert_eq!(flow.release(LAYER, CALLOUT, 1), Some(deleted(LAYER, 1)));
    assert_eq!(flow.acquire(LAYER, CALLOUT), 2);
}

#[test]
fn the_end_of_a_flow_deletes_its_contexts_once_each() {
    let mut flow = Contexts::new();
    flow.associate(LAYER, CALLOUT, 1).expect("there is none");
    flow.associate(OTHER_LAYER, CALLOUT, 2).expect("another layer");
    assert_eq!(flow.acquire(OTHER_LAYER, CALLOUT), 2);
    assert_eq!(flow.end(), [deleted(LAYER, 1)]);
    assert_eq!(flow.end(), []);
    assert_eq!(flow.associate(LAYER, CALLOUT, 3), Err(AssociateError::Ended));
    assert!(!flow.is_empty());
    assert_eq!(flow.release(OTHER_LAYER, CALLOUT, 2), Some(deleted(OTHER_LAYER, 2)));
    assert!(flow.is_empty());
}
