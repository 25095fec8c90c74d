//! Owners of a connection.
//!
//! The filter engine keeps a connection's address as its flow context, the ring keeps it on a list: owners that are
//! plain numbers. The count is therefore in the connection itself, and the last of them frees it, at any level up to
//! DISPATCH_LEVEL.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use super::connection::Connection;
use crate::kernel::Result;
use crate::kernel::pool::{PoolBox, tags};
use crate::ring::{Link, Linked};

/// One owner.
pub struct Ref(NonNull<Connection>);

// SAFETY: a connection is `Sync`, and may be freed by any thread.
unsafe impl Send for Ref {}
// SAFETY: a shared owner gives shared references.
unsafe impl Sync for Ref {}

impl Ref {
    /// Moves a connection into the pool, with one owner.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(connection: Connection) -> Result<Self> {
        Ok(Self(PoolBox::try_new(tags::CONNECTION, connection)?.into_raw()))
    }

    /// Gives this ownership up, to whoever has the pointer.
    fn into_raw(self) -> NonNull<Connection> {
        ManuallyDrop::new(self).0
    }

    /// Gives this ownership to a flow context. Never zero.
    pub fn into_context(self) -> u64 {
        self.into_raw().expose_provenance().get() as u64
    }

    /// Takes the ownership back.
    ///
    /// # Safety
    /// `context` came from [`Ref::into_context`], and this is done once for each.
    pub unsafe fn from_context(context: u64) -> Option<Self> {
        let address = usize::try_from(context).ok()?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).map(Self)
    }

    /// The connection behind a flow context.
    ///
    /// # Safety
    /// `context` is 0 or came from [`Ref::into_context`], and that ownership lasts for `'a`.
    #[inline]
    pub unsafe fn borrow_context<'a>(context: u64) -> Option<&'a Connection> {
        let address = usize::try_from(context).ok()?;
        // SAFETY: NULL, or a connection that its context owns (contract).
        unsafe { core::ptr::with_exposed_provenance::<Connection>(address).as_ref() }
    }

    /// Whether both own the same connection.
    pub fn is(&self, connection: &Connection) -> bool {
        core::ptr::eq(self.0.as_ptr(), connection)
    }
}

impl Deref for Ref {
    type Target = Connection;
    #[inline]
    fn deref(&self) -> &Connection {
        // SAFETY: an owner keeps it alive.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Ref {
    fn clone(&self) -> Self {
        self.retain();
        Self(self.0)
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        // SAFETY: this owner's own count, which it does not use again.
        unsafe { Connection::release(self.0) };
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// SAFETY: the link is a member of the connection and used with the driver's one ring; `retain` adds an owner and
// `release` takes one off; neither waits, and freeing pool memory does not enter the ring.
unsafe impl Linked for Connection {
    #[inline]
    fn link(&self) -> &Link {
        &self.link
    }

    #[inline]
    fn retain(&self) {
        // More owners than 2^32 cannot be: the table is one, the flow contexts are two, the ring is one, and the
        // rest are on the stacks of running threads.
        self.owners.fetch_add(1, Ordering::Relaxed);
    }

    unsafe fn release(object: NonNull<Self>) {
        let mut owned = Some(object);
        while let Some(object) = owned {
            // SAFETY: the caller is an owner (contract), or the connection before it was.
            let connection = unsafe { object.as_ref() };
            if connection.owners.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // Whatever the other owners did to it happened before it is freed.
            fence(Ordering::Acquire);
            // SAFETY: that was the last owner; the block was made by `Ref::try_new` with this tag.
            let mut connection = unsafe { PoolBox::from_raw(tags::CONNECTION, object) };
            owned = connection.next.get_mut().take().map(Ref::into_raw);
            drop(connection);
        }
    }
}
