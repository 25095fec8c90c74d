//! Which records are wanted.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use weir::trace::Guid;
use weir::trace::events::Level;

use crate::client::json;
use crate::etl::read::{Body, Record};
use crate::etl::tracelogging;
use crate::names;

/// Which records are wanted; all, without any option.
#[derive(clap::Args, Debug)]
pub struct Filter {
    /// Events of these providers alone: a name, or a GUID in braces
    #[arg(long, value_name = "PROVIDER", value_parser = provider, value_delimiter = ',')]
    provider: Vec<Provider>,
    /// Events up to this level: critical, error, warning, information, verbose
    #[arg(long, value_parser = names::level)]
    level: Option<Level>,
    /// Events with one of these keywords, as of a session that asks for them: a mask as 0x18, or a name of weir's own:
    /// lifecycle, configuration, policy, verdict, flow, control, extension, ring, fault
    #[arg(long, value_parser = keywords, value_delimiter = ',')]
    keywords: Vec<u64>,
    /// Events of these names or ids alone
    #[arg(long, value_name = "EVENT", value_delimiter = ',')]
    event: Vec<String>,
    /// Records from this time on, as 2026-11-23T00:15:00Z; UTC if it does not say
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Records before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
}

/// A provider.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Provider {
    Name(String),
    Guid(String),
}

#[expect(clippy::unnecessary_wraps, reason = "as clap has it")]
fn provider(text: &str) -> Result<Provider, String> {
    let guid = Guid::parse(text.encode_utf16()).or_else(|| Guid::parse(format!("{{{text}}}").encode_utf16()));
    Ok(guid.map_or_else(|| Provider::Name(text.to_owned()), |guid| Provider::Guid(guid.to_string())))
}

fn keywords(text: &str) -> Result<u64, String> {
    let mask = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let Some(mask) = mask else { return names::keyword(text).map(|keyword| keyword.bits()) };
    u64::from_str_radix(mask, 16).map_err(|error| error.to_string())
}

/// A time as system time.
fn time(text: &str) -> Result<u64, String> {
    let time = text.parse::<Timestamp>().or_else(|error| {
        let civil: DateTime = text.parse().map_err(|_| error)?;
        civil.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let time = time.map_err(|error| error.to_string())?;
    json::system_time(time).ok_or_else(|| "a time after 1601".to_owned())
}

impl Filter {
    /// Whether only events are wanted.
    fn of_events(&self) -> bool {
        let Self { provider, level, keywords, event, .. } = self;
        !provider.is_empty() || level.is_some() || !keywords.is_empty() || !event.is_empty()
    }

    /// Whether a record is wanted. What would have to be decoded for that is decoded only if everything else holds.
    pub fn wants(&self, record: &Record<'_>) -> bool {
        if self.since.is_some_and(|since| record.time < since)
            || self.until.is_some_and(|until| record.time >= until)
        {
            return false;
        }
        let Body::Event { provider, descriptor, traits, schema, fields, .. } = &record.body else {
            return !self.of_events();
        };
        // Level 0 and no keyword: an event that every session gets.
        if self.level.is_some_and(|most| descriptor.level > most as u8) {
            return false;
        }
        let mask = self.keywords.iter().fold(0, |all, keywords| all | keywords);
        if !self.keywords.is_empty() && descriptor.keywords != 0 && descriptor.keywords & mask == 0 {
            return false;
        }
        if !self.provider.is_empty() {
            let guid = tracelogging::guid(*provider);
            let name = traits.and_then(|traits| tracelogging::provider_name(traits).ok());
            let wanted = self.provider.iter().any(|wanted| match wanted {
                Provider::Guid(wanted) => *wanted == guid,
                Provider::Name(wanted) => name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(wanted)),
            });
            if !wanted {
                return false;
            }
        }
        if self.event.is_empty() {
            return true;
        }
        let id = descriptor.id.to_string();
        if self.event.contains(&id) {
            return true;
        }
        let decoded = schema.and_then(|schema| tracelogging::decode(schema, fields).ok());
        decoded.is_some_and(|event| self.event.iter().any(|name| name.eq_ignore_ascii_case(&event.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        let second = |text: &str| time(text).map(|time| time / 10_000_000 - 11_644_473_600);
        assert_eq!(second("1970-01-01T00:00:07Z"), Ok(7));
        assert_eq!(second("1970-01-01T01:00:07+01:00"), Ok(7));
        assert_eq!(second("1970-01-01T00:00:07"), Ok(7));
        assert_eq!(second("1970-01-01 00:00"), Ok(0));
        assert!(time("tomorrow").is_err());
        assert!(time("1500-01-01T00:00:00Z").unwrap_err().contains("1601"));
    }

    #[test]
    fn keywords_are_masks_or_names() {
        assert_eq!(keywords("0x18"), Ok(0x18));
        assert_eq!(keywords("Flow"), Ok(0x10));
        assert!(keywords("0xZZ").is_err());
        assert!(keywords("18").is_err());
    }
}
