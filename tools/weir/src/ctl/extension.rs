//! What is asked of those who provide an extension interface for a control connection.

use weir::config::interface;
use weir::control::protocol::message::{Control, Extended, MAX_CONTROL, Request};
use weir::trace::Guid;

use super::show::print;
use crate::client::Client;
use crate::output::{Failure, bytes};
use crate::record;

/// Asks who provides an extension interface for a control connection
#[derive(clap::Args, Debug)]
pub struct ExtensionArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Metric(MetricArgs),
    Control(ControlArgs),
}

/// Has a connection's counters sampled
#[derive(clap::Args, Debug)]
struct MetricArgs {
    #[command(flatten)]
    of: Of,
}

/// Sends a vendor's own control code
#[derive(clap::Args, Debug)]
struct ControlArgs {
    #[command(flatten)]
    of: Of,
    /// The code, decimal, or hexadecimal behind 0x
    #[arg(long, value_name = "N", value_parser = code)]
    code: u32,
    /// What goes with it, 40 bytes at most, in hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = data)]
    data: Option<Data>,
}

#[derive(clap::Args, Debug)]
struct Of {
    /// The connection, by the number of its session (`weir ctl sessions`)
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    session: u64,
    /// The interface: its name, or its NPIID in braces
    #[arg(long, value_name = "INTERFACE", default_value = interface::NAMES[0], value_parser = npi_id)]
    interface: Guid,
}

/// At most [`MAX_CONTROL`] bytes.
#[derive(Clone, Debug)]
struct Data(Vec<u8>);

fn npi_id(text: &str) -> Result<Guid, String> {
    interface::named(text).or_else(|| Guid::parse(text.encode_utf16())).ok_or_else(|| {
        let names = interface::NAMES.join(", ");
        format!("no interface; {names} are ones that weir knows, others go by an NPIID in braces")
    })
}

fn code(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let code = match digits {
        // What stands there has no sign.
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    code.ok_or_else(|| "no number of 32 bits".into())
}

fn data(text: &str) -> Result<Data, String> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.ok_or("allowed are hexadecimal digits alone")?;
    let (pairs, []) = digits.as_chunks() else { return Err("half a byte is left".into()) };
    if pairs.len() > MAX_CONTROL {
        return Err(format!("{} bytes, and {MAX_CONTROL} are the most", pairs.len()));
    }
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(high << 4 | low))
        .collect::<Result<_, _>>()
        .map(Data)
        .map_err(|error| error.to_string())
}

pub fn run(client: &mut Client, args: &ExtensionArgs, as_json: bool) -> Result<(), Failure> {
    match &args.command {
        Command::Metric(MetricArgs { of }) => metric(client, of, as_json),
        Command::Control(control) => self::control(client, control, as_json),
    }
}

fn metric(client: &mut Client, of: &Of, as_json: bool) -> Result<(), Failure> {
    let (session, interface) = (of.session, of.interface);
    let message = client.ask(&Request::ExtensionMetric(Extended { session, interface }))?;
    let metric = record!(message, ExtensionMetric)?;
    print(
        as_json,
        || message.json(),
        |out| {
            writeln!(out, "received    {}", bytes(metric.received))?;
            writeln!(out, "sent        {}", bytes(metric.sent))?;
            match metric.round_trip {
                Some(microseconds) => writeln!(out, "round trip  {microseconds} us")?,
                None => writeln!(out, "round trip  not known")?,
            }
            writeln!(out, "sampled by  {}", metric.provider.name())
        },
    )
}

fn control(client: &mut Client, args: &ControlArgs, as_json: bool) -> Result<(), Failure> {
    let Of { session, interface } = args.of;
    let data = args.data.as_ref().map(|Data(bytes)| &bytes[..]);
    let request = Control { session, interface, code: args.code, data };
    let message = client.ask(&Request::ExtensionControl(request))?;
    let controlled = record!(message, ExtensionControl)?;
    print(as_json, || message.json(), |out| writeln!(out, "done by {}", controlled.provider.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_goes_by_its_name_or_its_npi_id() {
        for (text, expected) in [
            ("connection_v1", Some("{5ee5d4f1-9929-4633-8368-7bc7438b4140}")),
            ("Label_v1", Some("{9d2c6a7e-41b5-4c0f-8e39-52a7d61f0b84}")),
            ("{9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}", Some("{9d2c6a7e-41b5-4c0f-8e39-52a7d61f0b84}")),
            ("{00000000-0000-0000-0000-000000000001}", Some("{00000000-0000-0000-0000-000000000001}")),
            ("9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84", None),
            ("connection", None),
            ("", None),
        ] {
            assert_eq!(npi_id(text).ok().map(|npi_id| npi_id.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_code_is_a_number_of_32_bits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4294967295", Some(u32::MAX)),
            ("0xFFFFffff", Some(u32::MAX)),
            ("0X10", Some(16)),
            ("4294967296", None),
            ("0x100000000", None),
            ("0x", None),
            ("0x+1", None),
            ("-1", None),
            ("ten", None),
            ("", None),
        ] {
            assert_eq!(code(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn data_is_whole_bytes_and_at_most_forty() {
        assert!(data("").unwrap().0.is_empty());
        assert_eq!(data("00fFaB").unwrap().0, [0, 0xFF, 0xAB]);
        assert_eq!(data(&"5a".repeat(40)).unwrap().0, [0x5A; 40]);
        for (text, error) in [
            ("0", "half a byte is left"),
            ("0x00", "allowed are hexadecimal digits alone"),
            ("zz", "allowed are hexadecimal digits alone"),
            ("é0", "allowed are hexadecimal digits alone"),
        ] {
            assert_eq!(data(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(data(&"5a".repeat(41)).unwrap_err(), "41 bytes, and 40 are the most");
    }
}
