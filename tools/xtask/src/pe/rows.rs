//! The rows of the check: what each looks at, and why it matters. [`crate::pe::check`] makes exactly one finding
//! for each row that applies to the image's architecture, in this order.

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// For the reader to know; does not fail the image.
    Note,
    /// Fails the image.
    Fail,
}

impl Status {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Note => "NOTE",
            Self::Fail => "FAIL",
        }
    }
}

/// A row of the catalogue.
#[derive(Debug)]
pub struct Row {
    /// `group.name`.
    pub id: &'static str,
    /// What a passing image has.
    pub asks: &'static str,
    /// Why it matters.
    pub why: &'static str,
}

const fn row(id: &'static str, asks: &'static str, why: &'static str) -> Row {
    Row { id, asks, why }
}

/// Every row, in the order of the report.
pub static ROWS: &[Row] = &[
    row(
        "header.machine",
        "PE32+ for x64 or ARM64, an executable with large addresses; EXE or DLL",
        "The kernel loads images of its own machine only. Linkers make drivers as EXE; Rust makes them as DLL, as \
         Microsoft's windows-drivers-rs does: the kernel's loader takes both.",
    ),
    row(
        "header.subsystem",
        "subsystem NATIVE, version 10.0",
        "NATIVE is the subsystem of drivers (\"PE Format\"); a version above the system's keeps an image from loading.",
    ),
    row(
        "header.os-version",
        "operating system version 10.0, image version 10.0",
        "Says for which Windows the image was built: the oldest that the driver is made for has 10.0.",
    ),
    row("header.wdm", "DLL characteristic WDM_DRIVER", "Set by /DRIVER:WDM; tools tell a driver by it."),
    row(
        "header.aslr",
        "DYNAMIC_BASE and HIGH_ENTROPY_VA, relocations not stripped",
        "A driver is loaded where there is room; without relocations it cannot be.",
    ),
    row(
        "header.nx",
        "NX_COMPAT",
        "Says that no data of the image is run; memory integrity (HVCI) demands it.",
    ),
    row(
        "header.guard",
        "GUARD_CF, as the load configuration says",
        "Without the flag the kernel ignores the tables of control flow guard.",
    ),
    row(
        "header.integrity",
        "FORCE_INTEGRITY",
        "PsSetCreateProcessNotifyRoutineEx and ObRegisterCallbacks answer STATUS_ACCESS_DENIED to an image without it.",
    ),
    row(
        "header.checksum",
        "the checksum of the file",
        "The loader checks it for every driver (\"PE Format\", CheckSum).",
    ),
    row(
        "sections.alignment",
        "aligned to 4 KiB in memory, in order, without overlap, inside SizeOfImage",
        "Memory integrity protects pages: two sections on a page would have the rights of both (Driver Verifier's \
         code integrity check 0x2004).",
    ),
    row(
        "sections.wx",
        "none both writable and executable",
        "Memory integrity refuses such an image (Driver Verifier's code integrity check 0x2003).",
    ),
    row(
        "sections.discardable",
        "none discardable but .reloc; none pageable",
        "A call into a section that was discarded after DriverEntry, or paged out at DISPATCH_LEVEL, is a bug check; \
         shared generic code can land in one unseen.",
    ),
    row(
        "sections.entry",
        "the entry point in an executable section",
        "The kernel calls it. Zero means none, which is for export drivers.",
    ),
    row("sections.tls", "no thread-local storage", "The kernel's loader does not set it up."),
    row(
        "sections.relocations",
        "base relocations there, all DIR64, all inside the image, none in code",
        "The loader patches each place; a wrong one is memory corruption at load. Code for x64 and ARM64 is \
         position-independent and needs none.",
    ),
    row(
        "sections.exports",
        "no export, or DriverEntry alone",
        "The kernel finds the entry point by the header. An export named DllInitialize or DllUnload is called when \
         another driver imports from this one; anything else is surface that nobody needs.",
    ),
    row(
        "debug.pdb",
        "one PDB, named without a folder",
        "Debuggers find symbols by it. A path tells where it was built, and makes equal sources build unequal images.",
    ),
    row(
        "debug.repro",
        "the REPRO entry: time stamps are hashes",
        "Two builds of the same sources must be equal, so that a signed image can be built again and compared.",
    ),
    row(
        "debug.cet",
        "CET_COMPAT in the extended DLL characteristics (x64)",
        "Says that the code leaves return addresses alone, as hardware-enforced stack protection demands.",
    ),
    row(
        "config.size",
        "a load configuration, as large as its directory says, that reaches over the fields for control flow guard",
        "The loader reads fields only as far as Size reaches.",
    ),
    row(
        "config.cookie",
        "a security cookie with the default value, in writable data that is no relocation's target",
        "The loader replaces this value by a random one; any other is left as it is, known to everybody.",
    ),
    row(
        "config.flags",
        "CF_INSTRUMENTED and CF_FUNCTION_TABLE_PRESENT",
        "Without them calls are not checked, or every call is one to a function that is not in the table.",
    ),
    row(
        "config.functions",
        "the table of call targets: sorted, in code, each a function; the entry point and every code address in data are in it",
        "An indirect call to a function that is missing there is a bug check (0x139, parameter 10).",
    ),
    row(
        "config.pointers",
        "the pointers of control flow guard in read-only data, each to code",
        "The kernel points them to its own check. In writable data they are a way around every check.",
    ),
    row(
        "version.fields",
        "a version resource: type driver, versions equal in numbers and text, names",
        "Explorer, Partner Center and administrators' inventories know a driver by it.",
    ),
    row(
        "signature",
        "not signed, or a certificate table that ends the file; nothing behind either",
        "The build leaves the image unsigned; packaging signs it. What follows the last section is never loaded, and \
         what follows the signature breaks it.",
    ),
    row(
        "imports.libraries",
        "only ntoskrnl.exe, hal.dll, fwpkclnt.sys, netio.sys, cng.sys",
        "Each further library must be on the machine when the driver loads. ndis.sys is for drivers that clone or \
         inject packets. hal.dll is named with its functions: from Windows 10 2004 on they are ntoskrnl.exe's.",
    ),
    row(
        "imports.names",
        "each an export of its library, in the project's lists, since Windows 10 1903 (10.0.18362) or before",
        "A name that the library lacks keeps the driver from loading; a newer one does so on older Windows, and is \
         to be looked up at run time (MmGetSystemRoutineAddress).",
    ),
    row("imports.ordinals", "by name, none by ordinal", "Ordinals change from one Windows to the next."),
    row(
        "imports.early",
        "no delayed and no bound imports",
        "The kernel's loader resolves neither; a bound address is one Windows build's.",
    ),
    row(
        "imports.table",
        "the import address table in data that is not executable",
        "The loader writes it (Driver Verifier's code integrity check 0x2005).",
    ),
    row(
        "code.map",
        "the linker's map, of this image",
        "Functions are known by it: without names neither panics nor call chains can be told.",
    ),
    row(
        "code.decodes",
        "every byte of every function an instruction",
        "What cannot be decoded is not checked. Data between instructions hides from every row below.",
    ),
    row(
        "code.vector",
        "x64: no ymm, zmm or mask register, no x87, no MMX; ARM64: no SVE, no SME",
        "Their state belongs to the interrupted thread: a driver that uses them without KeSaveExtendedProcessorState \
         corrupts it. SSE is saved by the kernel on x64, NEON on ARM64.",
    ),
    row(
        "code.baseline",
        "only instructions of every processor that runs Windows 10: x64 with SSE2 and cmpxchg16b; ARMv8.0",
        "On a processor without one, it is an invalid opcode in the kernel.",
    ),
    row(
        "code.privileged",
        "privileged instructions none but the IRQL register (cr8); others out of the ordinary listed",
        "What the kernel offers as a function is not for a driver to do by hand.",
    ),
    row(
        "code.traps",
        "no breakpoint or invalid instruction that code can run into, but behind a call that does not return",
        "abort() is one such instruction, without a name: a panic that no symbol tells of. Those that a switch alone leads \
         to are listed: they stand for values that the compiler knows to be none.",
    ),
    row(
        "code.indirect",
        "indirect calls, by function; guarded by control flow guard",
        "They leave the call graph, so the rows below cannot follow them. Each possible target has its address taken, \
         and is a root of its own.",
    ),
    row(
        "code.targets",
        "every function whose address code takes is one that control flow guard allows to be called",
        "Such a function is a callback, in the driver or in Windows: where it is not in the table, calling it is a bug \
         check (0x139, parameter 10).",
    ),
    row(
        "code.alloc",
        "no symbol of the alloc crate",
        "An allocation that fails there ends in a panic; the driver takes pool memory by fallible calls.",
    ),
    row(
        "code.panics",
        "no function of the panic machinery, nor one that stops Windows; what is there is listed, with the calls that lead \
         to it",
        "A panic in the kernel is a bug check: reachable from the network, it is a remote one.",
    ),
    row(
        "stack.unwind",
        "unwind data for every function that moves the stack pointer, agreeing with its instructions",
        "Debuggers, the kernel's dispatcher of exceptions and the rows below know frames by it.",
    ),
    row(
        "stack.frames",
        "no frame over 1 KiB that a callback can reach; others listed",
        "The kernel's stack is 24 KiB and the caller's; \"Using the Kernel Stack\" counts with three pages of it.",
    ),
    row(
        "stack.recursion",
        "no cycle of direct calls that is not explained",
        "Its depth has no bound that can be read from the image.",
    ),
    row(
        "stack.depth",
        "the deepest path of every root within its budget, and so with one call by pointer to the driver's deepest callback",
        "A callback starts on a stack that applications, file systems, tcpip.sys and other callouts have used; \
         running out of it is a double fault.",
    ),
];

/// The row of an id.
pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

/// What was found for a row.
#[derive(Clone, Debug)]
pub struct Finding {
    pub row: &'static str,
    pub status: Status,
    /// In one line.
    pub found: String,
    /// Further lines.
    pub details: Vec<String>,
}

impl Finding {
    pub fn pass(row: &'static str, found: impl Into<String>) -> Self {
        Self { row, status: Status::Pass, found: found.into(), details: Vec::new() }
    }

    pub fn note(row: &'static str, found: impl Into<String>) -> Self {
        Self { row, status: Status::Note, found: found.into(), details: Vec::new() }
    }

    pub fn fail(row: &'static str, found: impl Into<String>) -> Self {
        Self { row, status: Status::Fail, found: found.into(), details: Vec::new() }
    }

    pub fn with(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// Fails with the first fault, and the others as details; passes without any.
    pub fn from_faults(row: &'static str, passed: impl Into<String>, mut faults: Vec<String>) -> Self {
        if faults.is_empty() {
            return Self::pass(row, passed);
        }
        let first = faults.remove(0);
        Self::fail(row, first).with(faults)
    }
}
