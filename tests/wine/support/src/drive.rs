//! The drive channel: how a test program steers a stand-in and asks it.
//!
//! TCP on 127.0.0.1, one JSON object a line in each direction. A request names its operation in `op`. An answer has
//! `ok`; with `false`, `error` says what was wrong. Connections are served side by side, the requests of one in order.

pub mod fields;

use alloc::format;
use alloc::string::String;

use serde_json::{Map, Value, json};

/// The fields of a request.
pub type Request = Map<String, Value>;

/// What a request comes to: fields of the answer, or why it was refused.
pub type Outcome = Result<Value, String>;

/// Reads one request, has it handled, and words the answer: a line with its end.
///
/// `handle` gets the operation and all fields. What it gives must be an object or null.
pub fn answer(line: &str, handle: impl FnOnce(&str, &Request) -> Outcome) -> String {
    let outcome = match serde_json::from_str::<Value>(line) {
        Err(error) => Err(format!("not JSON: {error}")),
        Ok(Value::Object(request)) => match request.get("op").and_then(Value::as_str) {
            Some(op) => handle(op, &request),
            None => Err("the request has no \"op\"".into()),
        },
        Ok(_) => Err("a request is a JSON object".into()),
    };
    let answer = match outcome {
        Ok(Value::Object(mut fields)) => {
            fields.insert("ok".into(), Value::Bool(true));
            Value::Object(fields)
        }
        Ok(_) => json!({ "ok": true }),
        Err(error) => json!({ "ok": false, "error": error }),
    };
    format!("{answer}\n")
}

/// A field that must be text.
pub fn text<'a>(request: &'a Request, name: &str) -> Result<&'a str, String> {
    match request.get(name) {
        None => Err(format!("\"{name}\" is missing")),
        Some(value) => value.as_str().ok_or_else(|| format!("\"{name}\" must be a string, not {value}")),
    }
}

/// A field that may be text.
pub fn optional_text<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, String> {
    if request.get(name).is_none_or(Value::is_null) { Ok(None) } else { text(request, name).map(Some) }
}

/// A whole number of at most `most`, or `default` where it is missing.
pub fn number(request: &Request, name: &str, default: u64, most: u64) -> Result<u64, String> {
    match request.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_u64()
            .filter(|number| *number <= most)
            .ok_or_else(|| format!("\"{name}\" must be a whole number from 0 to {most}, not {value}")),
    }
}

/// True or false, or `default` where it is missing.
pub fn flag(request: &Request, name: &str, default: bool) -> Result<bool, String> {
    match request.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            value.as_bool().ok_or_else(|| format!("\"{name}\" must be true or false, not {value}"))
        }
    }
}

/// Opens the channel and serves it on threads of its own, for good.
///
/// The port is one of the system's choice; it is written to `<stand-in>.port` in the folder of the setting
/// [`crate::env::FOLDER`], as decimal digits, once the channel is open.
#[cfg(windows)]
pub fn serve(handle: fn(&str, &Request) -> Outcome) {
    crate::thread::spawn(move || {
        if let Err(error) = run(handle) {
            crate::log!("the drive channel is not open: {error}");
        }
    });
}

#[cfg(windows)]
fn run(handle: fn(&str, &Request) -> Outcome) -> Result<(), String> {
    use crate::{env, log, net, thread};

    net::start().map_err(|error| format!("{error:?}"))?;
    let listener = net::Listener::bind(0).map_err(|error| format!("{error:?}"))?;
    let port = listener.port().map_err(|error| format!("{error:?}"))?;
    crate::log!("drive channel on 127.0.0.1:{port}");
    if let Some(path) = env::file(&format!("{}.port", log::name())) {
        log::write_file(&path, &format!("{port}\n"));
    }
    loop {
        let mut connection = listener.accept().map_err(|error| format!("accept: {error:?}"))?;
        thread::spawn(move || {
            while let Some(line) = connection.line() {
                if !connection.send(answer(&line, handle).as_bytes()) {
                    break;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Value {
        let line = answer(line, |op, request| match op {
            "add" => Ok(json!({ "sum": number(request, "a", 0, 99)? + number(request, "b", 1, 99)? })),
            "hello" => Ok(json!({ "to": text(request, "name")? })),
            "ping" => Ok(Value::Null),
            other => Err(format!("unknown operation {other:?}")),
        });
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        serde_json::from_str(&line).expect("an answer is JSON")
    }

    #[test]
    fn an_answer_is_one_line_that_says_whether_it_worked() {
        assert_eq!(ask(r#"{"op":"ping"}"#), json!({"ok": true}));
        assert_eq!(ask(r#"{"op":"add","a":41}"#), json!({"ok": true, "sum": 42}));
        assert_eq!(ask(r#"{"op":"hello","name":"a\nb"}"#), json!({"ok": true, "to": "a\nb"}));
    }

    #[test]
    fn a_bad_request_is_told_what_is_wrong_with_it() {
        for (request, said) in [
            ("{", "not JSON"),
            ("[]", "JSON object"),
            ("{}", "no \"op\""),
            (r#"{"op":"fly"}"#, "unknown operation \"fly\""),
            (r#"{"op":"hello"}"#, "\"name\" is missing"),
            (r#"{"op":"hello","name":7}"#, "\"name\" must be a string, not 7"),
            (r#"{"op":"add","a":100}"#, "from 0 to 99, not 100"),
            (r#"{"op":"add","a":-1}"#, "not -1"),
        ] {
            let answer = ask(request);
            assert_eq!(answer["ok"], json!(false), "{request}");
            let error = answer["error"].as_str().unwrap_or_default();
            assert!(error.contains(said), "{request}: {error}");
        }
    }

    #[test]
    fn optional_fields_have_their_defaults() {
        let request = json!({"on": true, "name": null, "text": "x"});
        let Value::Object(request) = request else { unreachable!() };
        assert_eq!(flag(&request, "on", false), Ok(true));
        assert_eq!(flag(&request, "off", true), Ok(true));
        assert!(flag(&request, "text", true).is_err());
        assert_eq!(optional_text(&request, "name"), Ok(None));
        assert_eq!(optional_text(&request, "text"), Ok(Some("x")));
    }
}
