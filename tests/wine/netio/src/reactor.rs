//! Readiness: one thread polls every socket that someone waits for, and tells whom it concerns, once.

use crate::sync::Mutex;
use crate::winsock::Socket;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use windows_sys::Win32::Networking::WinSock::{
    POLLERR, POLLHUP, POLLNVAL, POLLRDNORM, POLLWRNORM, WSAPOLLFD, WSAPoll,
};
use wine_support::{log, sync::Lazy, thread};

/// Told that a socket is ready. Must return soon.
pub trait Ready: Send + Sync {
    fn readable(&self);
    fn writable(&self);
}

struct Source {
    socket: Arc<Socket>,
    /// What is waited for; nothing once it has come.
    want: i16,
    whom: Weak<dyn Ready>,
}

struct Reactor {
    sources: Mutex<BTreeMap<u64, Source>>,
    next: AtomicU64,
    wake: Option<Socket>,
}

static REACTOR: Lazy<Reactor> = Lazy::new(|| {
    let wake = Socket::to_itself().ok();
    if wake.is_none() {
        log!("CRASH: no UDP socket on 127.0.0.1: sockets cannot be polled");
    }
    thread::spawn(|| REACTOR.run());
    Reactor { sources: Mutex::new(BTreeMap::new()), next: AtomicU64::new(1), wake }
});

/// A socket that is watched. No longer, once dropped.
#[derive(Debug)]
pub struct Watch(u64);

impl Watch {
    /// Watches `socket`, for nothing at first.
    pub fn new(socket: &Arc<Socket>, whom: Weak<dyn Ready>) -> Self {
        let id = REACTOR.next.fetch_add(1, Ordering::Relaxed);
        let source = Source { socket: Arc::clone(socket), want: 0, whom };
        REACTOR.sources.lock().insert(id, source);
        Self(id)
    }

    /// Has `Ready` told once that there is something to read, an end or a failure included.
    pub fn want_read(&self) {
        self.want(POLLRDNORM);
    }

    /// Has `Ready` told once that there is room to write, or a failure.
    pub fn want_write(&self) {
        self.want(POLLWRNORM);
    }

    fn want(&self, events: i16) {
        let mut sources = REACTOR.sources.lock();
        let Some(source) = sources.get_mut(&self.0) else { return };
        if source.want & events == events {
            return;
        }
        source.want |= events;
        drop(sources);
        REACTOR.wake();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let source = REACTOR.sources.lock().remove(&self.0);
        // A poll in progress holds the socket open until it is over.
        if source.is_some_and(|source| source.want != 0) {
            REACTOR.wake();
        }
    }
}

impl Reactor {
    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A full buffer wakes as well.
            let _sent = wake.send(&[0]);
        }
    }

    fn run(&self) {
        let Some(wake) = &self.wake else { return };
        loop {
            let (mut polled, ids) = self.wanted(wake);
            let length = u32::try_from(polled.len()).unwrap_or(0);
            // SAFETY: the array has that many entries; the sockets are kept open by their sources, or are refused.
            let result = unsafe { WSAPoll(polled.as_mut_ptr(), length, -1) };
            if result < 0 {
                // A socket was closed meanwhile; the next round is without it.
                thread::yield_now();
                continue;
            }
            let mut told = Vec::new();
            {
                let mut sources = self.sources.lock();
                for (entry, id) in polled.iter().skip(1).zip(&ids) {
                    if entry.revents == 0 {
                        continue;
                    }
                    let Some(source) = sources.get_mut(id) else { continue };
                    let failed = entry.revents & (POLLERR | POLLHUP | POLLNVAL) != 0;
                    let wanted = source.want;
                    let came = if failed { wanted } else { wanted & entry.revents };
                    source.want &= !came;
                    told.push((Weak::clone(&source.whom), came));
                }
            }
            if polled.first().is_some_and(|entry| entry.revents != 0) {
                let mut bytes = [0; 64];
                while wake.receive(&mut bytes).is_ok() {}
            }
            for (whom, came) in told {
                let Some(whom) = whom.upgrade() else { continue };
                if came & POLLRDNORM != 0 {
                    whom.readable();
                }
                if came & POLLWRNORM != 0 {
                    whom.writable();
                }
            }
        }
    }

    /// What to poll: the waking socket, then every source that waits for something.
    fn wanted(&self, wake: &Socket) -> (Vec<WSAPOLLFD>, Vec<u64>) {
        let sources = self.sources.lock();
        let mut polled = Vec::with_capacity(sources.len() + 1);
        let mut ids = Vec::with_capacity(sources.len());
        polled.push(WSAPOLLFD { fd: wake.raw(), events: POLLRDNORM, revents: 0 });
        for (id, source) in sources.iter().filter(|(_, source)| source.want != 0) {
            polled.push(WSAPOLLFD { fd: source.socket.raw(), events: source.want, revents: 0 });
            ids.push(*id);
        }
        (polled, ids)
    }
}
