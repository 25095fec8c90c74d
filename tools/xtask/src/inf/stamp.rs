//! Makes an INF of an INX, as Stampinf does (pages "Stampinf Command Options" and "Using INX Files to Create INF Files").
//!
//! Two things are not in an INX, for they are not the same for each package: the architecture, for which `$ARCH$` stands,
//! and DriverVer (page "INF DriverVer directive").

use std::fmt;
use std::str::FromStr;

use crate::build::Arch;

/// A driver's version, four numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u16; 4]);

/// A day, as packages have it, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// Why there is no INF.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Not `w.x.y.z`, or 0.0.0.0, which Windows does not take.
    Version(String),
    /// Not `YYYY-MM-DD`, or no day of the calendar.
    Date(String),
    /// There is no section `[Version]`.
    NoVersionSection,
    /// The line has a character that is not ASCII: what it means would depend on the reader's code page.
    NotAscii { line: usize },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(text) => {
                write!(
                    f,
                    "{text:?} is no version: up to four numbers below 65535, not all 0, with dots between them"
                )
            }
            Self::Date(text) => write!(f, "{text:?} is no day from 1980 to 2107: YYYY-MM-DD"),
            Self::NoVersionSection => f.write_str("there is no section [Version]"),
            Self::NotAscii { line } => write!(f, "line {line}: a character that is not ASCII"),
        }
    }
}

impl std::error::Error for Error {}

/// Less than four numbers: the others are 0.
impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Version(text.to_owned());
        let mut numbers = [0; 4];
        for (index, part) in text.split('.').enumerate() {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse().ok().filter(|number| digits && *number < u16::MAX);
            *numbers.get_mut(index).ok_or_else(wrong)? = number.ok_or_else(wrong)?;
        }
        if numbers == [0; 4] { Err(wrong()) } else { Ok(Self(numbers)) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build, revision] = self.0;
        write!(f, "{major}.{minor}.{build}.{revision}")
    }
}

impl Date {
    /// The years that files in a cabinet can have.
    const YEARS: std::ops::RangeInclusive<u16> = 1980..=2107;

    /// A day of the Gregorian calendar; `None` for another.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let is = Self::YEARS.contains(&year) && (1..=days).contains(&day);
        is.then_some(Self { year, month, day })
    }

    /// The day of so many seconds since 1970, as SOURCE_DATE_EPOCH counts; `None` outside of the years 1980 to 2107.
    pub fn from_unix(seconds: u64) -> Option<Self> {
        // The years begin in March here, so that the leap day is the last of one.
        const DAYS: [u64; 12] = [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29];
        const FOUR_CENTURIES: u64 = 146_097;
        const CENTURY: u64 = 36_524;
        const FOUR_YEARS: u64 = 1461;
        const YEAR: u64 = 365;
        // 1970-01-01 is this many days after 1600-03-01.
        let days = (seconds / 86_400).checked_add(135_080)?;
        let (centuries, days) = (days / FOUR_CENTURIES * 4, days % FOUR_CENTURIES);
        let century = (days / CENTURY).min(3);
        let days = days - century * CENTURY;
        let (fours, days) = (days / FOUR_YEARS * 4, days % FOUR_YEARS);
        let year = (days / YEAR).min(3);
        let mut day = days - year * YEAR;
        let mut month = 3;
        for length in DAYS {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        let year = 1600_u64.checked_add((centuries + century) * 100 + fours + year)?;
        let (year, month) = if month > 12 { (year + 1, month - 12) } else { (year, month) };
        Self::new(year.try_into().ok()?, month, u8::try_from(day + 1).ok()?)
    }
}

/// `YYYY-MM-DD`
impl FromStr for Date {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let date = || {
            let (year, rest) = text.split_once('-')?;
            let (month, day) = rest.split_once('-')?;
            let digits = [(year, 4), (month, 2), (day, 2)]
                .iter()
                .all(|(part, len)| part.len() == *len && part.bytes().all(|byte| byte.is_ascii_digit()));
            digits.then_some(())?;
            Self::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)
        };
        date().ok_or_else(|| Error::Date(text.to_owned()))
    }
}

/// As DriverVer has it.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}/{:02}/{:04}", self.month, self.day, self.year)
    }
}

/// As sections of an INF are decorated.
pub const fn decoration(arch: Arch) -> &'static str {
    match arch {
        Arch::X64 => "amd64",
        Arch::Arm64 => "arm64",
    }
}

/// What stands for the architecture. Its case matters, as it does for Stampinf.
pub const ARCH: &str = "$ARCH$";

/// Makes the INF of a package: for one architecture, with one version and one day, which is to be the latest one of the
/// package's files. A DriverVer that is there is replaced. The lines end as Windows has it.
///
/// # Errors
/// The INX has no section for DriverVer, or characters that are not ASCII.
pub fn stamp(inx: &str, arch: Arch, version: Version, date: Date) -> Result<String, Error> {
    let driver_ver = format!("DriverVer   = {date},{version}");
    let mut lines: Vec<String> = Vec::new();
    // Behind the last entry of the section, where it is, and whether the lines are in it.
    let (mut place, mut inside) = (None, false);
    for (index, line) in inx.strip_prefix('\u{feff}').unwrap_or(inx).lines().enumerate() {
        if !line.is_ascii() {
            return Err(Error::NotAscii { line: index + 1 });
        }
        let content = line.split(';').next().unwrap_or_default().trim();
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.eq_ignore_ascii_case("Version");
        } else if inside {
            let key = content.split('=').next().unwrap_or_default().trim_end();
            if key.eq_ignore_ascii_case("DriverVer") {
                continue;
            }
        }
        lines.push(line.replace(ARCH, decoration(arch)));
        if inside && !content.is_empty() {
            place = Some(lines.len());
        }
    }
    lines.insert(place.ok_or(Error::NoVersionSection)?, driver_ver);
    Ok(lines.into_iter().flat_map(|line| [line, "\r\n".to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn stamped(inx: &str) -> Result<String, Error> {
        stamp(inx, Arch::X64, version("1.2.3.4"), date("2026-02-28"))
    }

    #[test]
    fn the_driver_version_comes_last_in_its_section_and_the_architecture_everywhere() {
        let inx = "[version] ; first\nSignature=x\n\n; next\n[DefaultInstall.NT$ARCH$]\nCopyFiles=a.$ARCH$\n";
        let inf = "[version] ; first\r\nSignature=x\r\nDriverVer   = 02/28/2026,1.2.3.4\r\n\r\n; next\r\n\
                   [DefaultInstall.NTamd64]\r\nCopyFiles=a.amd64\r\n";
        assert_eq!(stamped(inx).unwrap(), inf);
        let arm64 = stamp(inx, Arch::Arm64, version("1"), date("2107-12-31")).unwrap();
        assert!(arm64.contains("[DefaultInstall.NTarm64]\r\n"), "{arm64}");
        assert!(arm64.contains("DriverVer   = 12/31/2107,1.0.0.0\r\n"), "{arm64}");
    }

    #[test]
    fn an_older_driver_version_is_replaced_and_others_are_left() {
        let inx = "[Version]\r\nDRIVERVER = 01/01/2000,1.0 ; old\r\n[Other]\r\nDriverVer = kept\r\n";
        let inf = "[Version]\r\nDriverVer   = 02/28/2026,1.2.3.4\r\n[Other]\r\nDriverVer = kept\r\n";
        assert_eq!(stamped(inx).unwrap(), inf);
        assert_eq!(stamped(&stamped(inx).unwrap()).unwrap(), inf);
    }

    #[test]
    fn what_windows_would_not_read_is_refused() {
        assert_eq!(stamped("[Strings]\n"), Err(Error::NoVersionSection));
        assert_eq!(stamped("; [Version]\n"), Err(Error::NoVersionSection));
        assert_eq!(stamped("[Version]\n; \u{e9}\n"), Err(Error::NotAscii { line: 2 }));
        for text in ["", "1.", "1..2", "1.2.3.4.5", "65535", "65536", "+1", "0.0.0.0", "a"] {
            assert_eq!(text.parse::<Version>(), Err(Error::Version(text.to_owned())), "{text}");
        }
        for text in ["", "2026-2-28", "2026-02-29", "2026-13-01", "1979-12-31", "2026-00-01", "2026-01-00"] {
            assert_eq!(text.parse::<Date>(), Err(Error::Date(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn seconds_since_1970_are_days_of_the_calendar() {
        // By `date -u -d @… +%F`.
        let known = [
            (315_532_800, "1980-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_767_225_599, "2025-12-31"),
            (1_767_225_600, "2026-01-01"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (seconds, day) in known {
            assert_eq!(Date::from_unix(seconds), Some(date(day)), "{seconds}");
        }
        for seconds in [0, 315_532_799, 4_354_819_200, u64::MAX] {
            assert_eq!(Date::from_unix(seconds), None, "{seconds}");
        }
    }
}
