//! The rules, by InfVerif's numbers: what each asks, and how grave it is in which of InfVerif's modes.
//!
//! Numbers and levels are those of the page "INF Validation Errors and Warnings" (WDK 10.0.26200). Rules about devices,
//! their interfaces, filters, components and classes of their own are not here: a primitive driver has none of that.

use std::fmt;

/// How strictly an INF is judged: InfVerif's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Declarative Driver requirements
    K,
    /// Universal Driver requirements
    U,
    /// Windows Driver requirements
    W,
}

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    Error,
    Warning,
    /// Not told in this mode.
    None,
}

impl Gravity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Gravity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    pub code: u16,
    /// By mode: /k, /u, /w.
    gravity: [Gravity; 3],
    /// What must not be.
    pub what: &'static str,
    /// The page that says what should be.
    pub page: &'static str,
}

impl Rule {
    pub const fn gravity(&self, level: Level) -> Gravity {
        let [declarative, universal, windows] = self.gravity;
        match level {
            Level::K => declarative,
            Level::U => universal,
            Level::W => windows,
        }
    }
}

/// The rule with that number.
pub fn find(code: u16) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code == code)
}

macro_rules! rules {
    ($($code:literal $k:ident $u:ident $w:ident $page:literal $what:literal;)+) => {
        /// All of them, by their numbers.
        pub const RULES: &[Rule] = &[$(Rule {
            code: $code,
            gravity: [Gravity::$k, Gravity::$u, Gravity::$w],
            what: $what,
            page: $page,
        },)+];
    };
}

rules! {
    1000 Error Error Error "Running InfVerif from the command line" "The file cannot be read.";
    1001 Error Error Error "INF Version Section" "No [Version] section with a signature that Windows knows.";
    1002 Error Error Error "General Syntax Rules for INF Files" "A line that the parser refuses.";
    1003 Error Error Error "General Syntax Rules for INF Files" "Neither ANSI nor UTF-16 with the low byte first, and a mark.";
    1005 Error Error Error "General Syntax Rules for INF Files" "A directive names no section.";
    1006 Error Error Error "INF AddService Directive" "A directive of a service has no value.";
    1008 Error Error Error "INF SourceDisksFiles Section" "A file has no disk's number.";
    1010 Error Error Error "INF Version Section" "ClassGuid is no GUID in braces.";
    1015 Error Error Error "INF SourceDisksNames Section" "A source's path has a drive in it, or leads upwards.";
    1081 Error Error Error "INF AddService Directive" "A directive's flags are no number.";
    1083 Error Error Error "INF AddService Directive" "A directive's flags have a bit that is not known.";
    1086 Error Error Error "INF AddService Directive" "The same service is added twice.";
    1088 Error Error Error "INF AddService Directive" "A directive of a service stands twice.";
    1100 Error Error Error "Using Dirids" "A file of the driver store gets another name, or another folder, than in the package.";
    1101 Error Error Error "INF CopyFiles Directive" "A security descriptor for files of the driver store.";
    1102 Error Error Error "Using Dirids" "A file of the driver store is deleted or renamed.";
    1103 Error Error Error "INF CopyFiles Directive" "A flag that means nothing for a file of the driver store.";
    1110 Error Error Error "INF CopyINF Directive" "CopyINF names something that is no INF.";
    1199 Error Error Error "INF AddService Directive" "Something newer than the oldest Windows that the section is for.";
    1201 Warning Warning Warning "General Syntax Rules for INF Files" "A value too many.";
    1203 Error Error Error "General Syntax Rules for INF Files" "A directive names a section that is not there.";
    1204 Error Error Error "INF Version Section" "Provider begins with Microsoft.";
    1205 Warning Warning Warning "General Syntax Rules for INF Files" "Two directives of one kind use the same section.";
    1206 Error Error Error "General Syntax Rules for INF Files" "Directives of different kinds use the same section.";
    1209 Error Error Error "General Syntax Rules for INF Files" "A section stands twice.";
    1212 Error Error Error "INF DefaultInstall Section" "[DefaultInstall] beside [Manufacturer].";
    1213 Error Error Error "INF Version Section" "[SourceDisksFiles] has a catalogue.";
    1214 Error Error Error "INF Version Section" "CatalogFile is no name of a catalogue.";
    1217 Error Error Error "INF DriverVer Directive" "DriverVer's version is not four numbers.";
    1218 Error Error Error "INF DriverVer Directive" "DriverVer's date is no day as MM/DD/YYYY.";
    1222 Error Error Error "INF AddReg Directive" "A key of the system's hive that is not of the current control set.";
    1223 Error Error Error "INF AddReg Directive" "A key that is the system's alone: Services, Enum, Control\\Class.";
    1224 Error Error Error "INF AddReg Directive" "A root of the registry that there is not.";
    1225 Error Error Error "INF AddReg Directive" "UpperFilters or LowerFilters is no list of texts.";
    1226 Error Error Error "INF AddReg Directive" "A security descriptor for values that stand right under HKR.";
    1229 Error Error Error "INF CopyFiles Directive" "An entry of a list of files names none.";
    1230 Error Error Error "INF SourceDisksFiles Section" "A file is copied that [SourceDisksFiles] has not for this architecture.";
    1231 Warning Error Error "INF SourceDisksFiles Section" "A compressed file's name.";
    1233 Error Error Error "INF Version Section" "No CatalogFile.";
    1234 Error Error Error "INF Version Section" "[Version] lacks Class, ClassGuid, Provider or DriverVer.";
    1235 Error Error Error "INF Strings Section" "A %token% that [Strings] does not have.";
    1241 Error Error Error "Using Dirids" "A directory's number that only an installing program could give a meaning.";
    1243 Error Error Error "Using Dirids" "A directory's number that there is not.";
    1250 Error Error Error "INF AddService Directive" "An event log other than System, Application and Security.";
    1252 Warning Warning Warning "INF AddService Directive" "Something that a service of this type cannot have.";
    1253 Error Error Error "INF AddService Directive" "AddService without a name.";
    1254 Error Error Error "INF AddService Directive" "A service's binary with quotation marks that do not match.";
    1257 Error Error Error "INF AddReg Directive" "A registry value has the Windows directory with its drive.";
    1258 Error Error Error "Using Dirids" "A registry value has a directory's number, which is resolved too early.";
    1260 Error Error Error "INF AddService Directive" "ServiceType, StartType or ErrorControl is no number that Windows knows.";
    1263 Error Error Error "INF AddReg Directive" "A type of one's own that is one of Windows' text types.";
    1264 Error Error Error "INF AddReg Directive" "A type of one's own without the flag for binary data.";
    1265 Error Error Error "INF AddReg Directive" "Something is appended to a value that is no list of texts.";
    1266 Error Error Error "INF DelReg Directive" "A text is taken out of a list, and it is not said which.";
    1267 Error Error Error "INF AddReg Directive" "Binary data that are no bytes in hexadecimal.";
    1268 Error Error Error "INF AddReg Directive" "A number that is none, or is too large.";
    1272 Error Error Error "INF AddService Directive" "A section for a service without a name.";
    1273 Error Error Error "INF SourceDisksNames Section" "A file's disk is not there.";
    1274 Error Error Error "Using INX Files to Create INF Files" "$ARCH$ is left in it.";
    1275 Error Error Error "INF DestinationDirs Section" "A list of files has no destination.";
    1280 Error Error Error "INF Version Section" "ClassGuid is of another class than Class.";
    1281 Error Error Error "INF Version Section" "Class is known by another ClassGuid.";
    1284 Error Error Error "INF Version Section" "The class is for samples alone.";
    1285 Error Error Error "INF ClassInstall32 Section" "[ClassInstall32] for a class of Microsoft's that Windows has set up.";
    1286 Error Error Error "INF Version Section" "Class has more than 31 characters.";
    1289 Error Error Error "INF AddService Directive" "A service lacks ServiceType, StartType, ErrorControl or ServiceBinary.";
    1290 Error Error Error "INF DefaultInstall Section" "A directive that this section cannot have.";
    1294 Error Error Error "INF SourceDisksFiles Section" "The same entry twice.";
    1295 Error Error Error "INF Strings Section" "The strings of one language are not those of another.";
    1299 Error Error Error "General Syntax Rules for INF Files" "Not all could be checked, for the parser has stopped.";
    1300 Error Error Error "INF DefaultInstall Section" "A section of times gone by.";
    1301 Error Error Error "INF DefaultInstall Section" "A directive of times gone by.";
    1304 Warning Error None "INF AddReg Directive" "A registry entry outside HKR.";
    1305 Warning Error Error "INF AddReg Directive" "A list of texts that others may have changed is appended to.";
    1306 Warning Error None "Using Dirids" "A file is copied to a place outside of the Windows directory.";
    1308 Warning Error Error "INF DelReg Directive" "Registry entries are deleted or changed bit by bit.";
    1309 Warning Error Error "INF DelFiles Directive" "Files or services are deleted or renamed.";
    1315 Error Error Error "INF DefaultInstall Section" "Needs names a section that is not there, and no INF is included.";
    1320 None None Error "Driver Package Isolation" "A key outside HKR.";
    1321 None None Error "Driver Package Isolation" "A value outside HKR.";
    1322 None None Error "Driver Package Isolation" "A file outside of the driver store (13).";
    1323 None None Error "Driver Package Isolation" "A service's value outside of its key Parameters.";
    1324 Warning Warning Error "INF Version Section" "No PnpLockdown=1.";
    1330 Error Error Error "InfVerif Error 1330" "Two sources for one destination.";
    1331 Warning Error Error "InfVerif Error 1330" "Two sections set the same value of the registry differently.";
    1332 Warning Error Error "InfVerif Error 1330" "Two sections set the same value of a service differently.";
    1333 Warning Error Error "InfVerif Error 1330" "Two sections configure the same service differently.";
    1340 None None Error "Using Dirids" "A destination whose number is withdrawn.";
    1341 None None Error "Using Dirids" "A path with a number that is withdrawn.";
    1420 Error Error Error "Creating a Primitive Driver" "Something keeps Windows from taking it for a primitive driver.";
    1421 Error Error Error "Creating a Primitive Driver" "[DefaultInstall] or [DefaultUninstall] without an architecture.";
    1422 Error Error Error "Creating a Primitive Driver" "[DefaultUninstall] without LegacyUninstall=1.";
    1423 Error Error Error "Creating a Primitive Driver" "No [DefaultInstall] with an architecture.";
    1430 Error Error Error "INF AddService Directive" "A value that the service manager keeps is written as a registry value.";
    1431 Error Error Error "INF AddReg Directive" "A value of an event log has another type than the event log expects.";
    2006 Error Error Error "INF AddService Directive" "A service's section is not there.";
    2083 Warning Warning Warning "General Syntax Rules for INF Files" "A section that nothing uses.";
    2084 Warning Warning Error "InfVerif Error 2084" "A service's binary that is not copied.";
    2085 Error Error Error "INF AddService Directive" "A service's binary that is not under a directory's number.";
}
