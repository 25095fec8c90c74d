//! The cabinet for the Hardware Dev Center: all files of a package in a folder of it, none at its root (page "Attestation sign
//! Windows drivers").

use std::io::{Cursor, Write as _};

use cab::{CabinetBuilder, CompressionType};
use time::{OffsetDateTime, PrimitiveDateTime};

use super::time::Moment;

/// Makes a cabinet of files, given by their names and bytes, in one folder. The same files and time give the same bytes.
///
/// # Errors
/// A time that no file in a cabinet can have (they have 1980 to 2107), or a file that is too large for one.
pub fn make(folder: &str, files: &[(String, Vec<u8>)], time: Moment) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("the cabinet: {why}");
    let at = i64::try_from(time.seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.filter(|at| (1980..=2107).contains(&at.year()));
    let at = at.ok_or_else(|| wrong(&"its files cannot be of a year before 1980 or after 2107"))?;
    let mut builder = CabinetBuilder::new();
    let group = builder.add_folder(CompressionType::MsZip);
    for (name, _) in files {
        group
            .add_file(format!("{folder}\\{name}"))
            .set_datetime(PrimitiveDateTime::new(at.date(), at.time()));
    }
    let mut writer = builder.build(Cursor::new(Vec::new())).map_err(|error| wrong(&error))?;
    for (_, content) in files {
        let file = writer.next_file().map_err(|error| wrong(&error))?;
        file.ok_or_else(|| wrong(&"a file is missing"))?.write_all(content).map_err(|error| wrong(&error))?;
    }
    Ok(writer.finish().map_err(|error| wrong(&error))?.into_inner())
}
