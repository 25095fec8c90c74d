//! The contexts that callouts have associated with one flow (*Associating Context with a Data Flow*,
//! *FwpsFlowAssociateContext0*, *FwpsFlowRemoveContext0*).
//!
//! A context is in use while a classification has it: removing it then is [`Removal::Pending`], and whoever
//! releases it last must call the callout's flow delete function.

use alloc::vec::Vec;

/// A context that its callout must now be told of, by its flow delete function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub layer: u16,
    pub callout: u32,
    pub context: u64,
}

/// Why a context was not associated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssociateError {
    /// The context is zero: `STATUS_INVALID_PARAMETER`.
    Zero,
    /// This callout has one here already: `STATUS_OBJECT_NAME_EXISTS`.
    Exists,
    /// The flow has ended.
    Ended,
}

/// What became of a context that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// "If the function returns STATUS_SUCCESS, it calls the flowDeleteFn callout function synchronously."
    Done(Deleted),
    /// "STATUS_PENDING: an active callout classification is in progress"; the function is called when it is over.
    Pending,
    /// "STATUS_UNSUCCESSFUL: there is no context currently associated with the data flow."
    NotFound,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    layer: u16,
    callout: u32,
    context: u64,
    /// Classifications that have it.
    users: u32,
    /// Removed while in use.
    dying: bool,
}

/// The contexts of a flow, by layer and callout: "each context must be associated with a different callout", and
/// "will be associated only with the specified filtering layer".
#[derive(Clone, Debug, Default)]
pub struct Contexts {
    entries: Vec<Entry>,
    ended: bool,
}

impl Contexts {
    pub const fn new() -> Self {
        Self { entries: Vec::new(), ended: false }
    }

    fn live(&self, layer: u16, callout: u32) -> Option<usize> {
        self.entries.iter().position(|e| e.callout == callout && e.layer == layer && !e.dying)
    }

    pub fn associate(&mut self, layer: u16, callout: u32, context: u64) -> Result<(), AssociateError> {
        if context == 0 {
            return Err(AssociateError::Zero);
        }
        if self.ended {
            return Err(AssociateError::Ended);
        }
        if self.live(layer, callout).is_some() {
            return Err(AssociateError::Exists);
        }
        self.entries.push(Entry { layer, callout, context, users: 0, dying: false });
        Ok(())
    }

    /// The context for a classification, which must [`release`](Self::release) it; 0 if there is none.
    pub fn acquire(&mut self, layer: u16, callout: u32) -> u64 {
        self.live(layer, callout).map_or(0, |index| {
            let entry = &mut self.entries[index];
            entry.users += 1;
            entry.context
        })
    }

    /// Gives back what [`acquire`](Self::acquire) gave. The context is deleted if it was removed meanwhile.
    pub fn release(&mut self, layer: u16, callout: u32, context: u64) -> Option<Deleted> {
        let index = self
            .entries
            .iter()
            .position(|e| e.callout == callout && e.layer == layer && e.context == context && e.users > 0)?;
        let entry = &mut self.entries[index];
        entry.users -= 1;
        if entry.users == 0 && entry.dying {
            self.entries.swap_remove(index);
            return Some(Deleted { layer, callout, context });
        }
        None
    }

    pub fn remove(&mut self, layer: u16, callout: u32) -> Removal {
        let Some(index) = self.live(layer, callout) else {
            return Removal::NotFound;
        };
        let entry = &mut self.entries[index];
        if entry.users > 0 {
            entry.dying = true;
            return Removal::Pending;
        }
        let context = self.entries.swap_remove(index).context;
        Removal::Done(Deleted { layer, callout, context })
    }

    /// The flow ends: "the context will be automatically removed from the data flow by the filter engine when the
    /// data flow terminates" (*flowDeleteFn*). Contexts in use are deleted when they are released.
    pub fn end(&mut self) -> Vec<Deleted> {
        self.ended = true;
        let mut deleted = Vec::new();
        self.entries.retain_mut(|entry| {
            entry.dying = true;
            if entry.users == 0 {
                deleted.push(Deleted { layer: entry.layer, callout: entry.callout, context: entry.context });
            }
            entry.users > 0
        });
        deleted
    }

    /// Whether no context is left, dying ones included.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many contexts there are, dying ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
