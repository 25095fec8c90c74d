//! DPDK's rte_ring as a peer, where DPDK is installed (Debian: libdpdk-dev). What calls its inline functions is compiled
//! here, by the C compiler and with the flags that pkg-config names, into cargo's folder for such files.
//!
//! It has the work of the other peers: a record at a time, from the same table, with its state read from memory for each. A
//! ring of exactly so many records has twice as many places, by its own design.

use std::{ffi::c_void, path::Path, process::Command};

use libloading::Library;

use super::queues::{Produce, Queue, RTE_RING, Records, Role};

type New = unsafe extern "C" fn(places: u32, bytes: u32, one_producer: i32) -> *mut c_void;
type Push = unsafe extern "C" fn(producer: *mut Producer, number: u64, count: u64) -> u64;
type Drain = unsafe extern "C" fn(ring: *mut c_void, sum: *mut u64) -> u64;

/// `struct producer` of the C side.
#[repr(C, align(64))]
struct Producer {
    ring: *mut c_void,
    records: *const u64,
}

/// A pointer to what the closure that holds it alone uses at any time, or all of them may.
struct Held<T>(*mut T);

// SAFETY: producers are used by one thread at a time, a ring of this kind by many.
unsafe impl<T> Send for Held<T> {}

impl<T> Held<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

/// The compiled file.
pub struct Dpdk(&'static Library);

impl Dpdk {
    /// Compiles and loads it; none, with the reason on stderr, without DPDK.
    pub fn load() -> Option<Self> {
        let say = |why: &str| eprintln!("{why}: rte_ring left out");
        let flags = Command::new("pkg-config").args(["--cflags", "--libs", "libdpdk"]).output();
        let Some(flags) = flags.ok().filter(|output| output.status.success()) else {
            say("DPDK is not installed");
            return None;
        };
        let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/benches/ring/rte_ring.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rte_ring.so");
        let compiled = Command::new("cc")
            .args(["-O3", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&library)
            .arg(source)
            .args(flags.split_whitespace())
            .status();
        if !compiled.is_ok_and(|status| status.success()) {
            say("what calls DPDK does not compile");
            return None;
        }
        // SAFETY: the initializers are DPDK's, which only register things.
        match unsafe { Library::new(&library) } {
            Ok(library) => Some(Self(Box::leak(Box::new(library)))),
            Err(error) => {
                say(&error.to_string());
                None
            }
        }
    }

    fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the types above are those of the C side.
        *unsafe { self.0.get::<T>(name.as_bytes()) }.expect("the file has it")
    }

    /// Two producers, one consumer.
    pub fn many<const W: usize>(&self, places: usize) -> Queue {
        self.queue::<W>(2 * places, "mp")
    }

    /// One producer, one consumer.
    pub fn one(&self, places: usize) -> Queue {
        self.queue::<8>(places, "sp")
    }

    fn queue<const W: usize>(&self, places: usize, kind: &str) -> Queue {
        let bytes = 8 * W;
        let new: New = self.symbol("peer_new");
        let push: Push = self.symbol(&format!("peer_push_{kind}_{bytes}"));
        let take: Drain = self.symbol(&format!("peer_drain_{bytes}"));
        let [Ok(count), Ok(size)] = [places, bytes].map(u32::try_from) else {
            unreachable!("of moderate size")
        };
        // SAFETY: a ring of that size.
        let ring = unsafe { new(count, size, i32::from(kind == "sp")) };
        assert!(!ring.is_null(), "there is memory");
        let producer = || -> Produce {
            let records = Records::<W>::all().words();
            let producer = Held(Box::leak(Box::new(Producer { ring, records })));
            let mut next = 0;
            Box::new(move |count| {
                // SAFETY: the ring lives on, and this is the producer's only user.
                let accepted = unsafe { push(producer.get(), next, count) };
                next += count;
                accepted
            })
        };
        let producers = [producer(), producer()];
        let ring = Held(ring);
        let drain = Box::new(move || {
            let mut sum = 0;
            // SAFETY: the ring lives on, and this is its only consumer.
            let taken = unsafe { take(ring.get(), &raw mut sum) };
            std::hint::black_box(sum);
            taken
        });
        Queue { name: RTE_RING, role: Role::Peer, producers, drain }
    }
}
