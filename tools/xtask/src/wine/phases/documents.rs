//! The administrator's documents, followed from the first to the last: what they tell to type is typed, in Wine and on the
//! operator's machine, against the image as it was built. `cargo xtask docs` says what a block is.
//!
//! Where Wine has no program for something, and it has to be done for what follows, it is done in another way: setupapi
//! installs the package in place of pnputil, and sets the guard of the key's subkey, which Wine's leaves out.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::Run;
use super::super::logs::GAP;
use super::super::prefix::failed;
use super::super::registry::GUARDED;
use super::super::report::Report;
use super::super::session::{Netio, Session};
use super::{install, left, told};
use crate::docs::markdown::{self, Kind};
use crate::docs::script::{self, Script};
use crate::docs::{IN_WINE, run_block, windows};
use crate::step::root;

pub fn documents(run: &Run, report: &mut Report) {
    let logs = run.logs.join("documents");
    let mut session = None;
    let mut prepared = None;
    let _told = report.phase("the administrator's documents: before", |report| {
        let weir = script::build_weir()?;
        let folder = root().join("target/docs/host");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(failed(&folder))?;
        }
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let session =
            session.insert(Session::start(&run.wine, &run.prefix, &run.files, Netio::StandIn, logs.clone())?);
        run.prefix.is_changed()?;
        session.delete_service()?;
        session.configure_stand_ins()?;
        install::package(run)?;
        for name in ["weir.wprp", "weir-autologger.reg"] {
            let place = folder.join(name);
            fs::copy(root().join("inf").join(name), &place).map_err(failed(&place))?;
        }
        report.held("Wine is there, and the package beside the documents' folder");
        prepared = Some((weir, folder));
        Ok(())
    });
    let (Some((weir, folder)), Some(mut session)) = (prepared, session) else { return };
    for name in IN_WINE {
        let followed =
            report.phase(name, |report| told(&logs, follow(name, &weir, &folder, &mut session, report)));
        if followed.is_none() {
            return;
        }
    }
    let _told = report.phase("the administrator's documents: after", |report| {
        let searched = super::super::logs::search(&session.logs, &[GAP])?;
        report.held(&format!("{searched} logs tell of no crash"));
        drop(session);
        run.prefix.is_whole()
    });
}

/// Does what a document says.
fn follow(
    name: &str,
    weir: &Path,
    folder: &Path,
    session: &mut Session,
    report: &mut Report,
) -> Result<(), String> {
    let mut script = Script::new(weir, folder.to_owned())?;
    let mut counts = [0_u32; 3];
    for block in markdown::read(name)? {
        report.say(&format!("   {name}:{}: {}", block.line, block.kind));
        let done = match block.kind {
            Kind::Cmd => {
                counts[1] += 1;
                cmd(session, folder, &block.text)
            }
            Kind::NotRun => {
                counts[2] += 1;
                windows::check(&block.text).and_then(|()| in_another_way(session, &block.text))
            }
            _ => {
                counts[0] += 1;
                run_block(&mut script, &block)
            }
        };
        done.map_err(|error| format!("{name}:{}: {error}", block.line))?;
    }
    script.finished().map_err(|error| format!("{name}: {error}"))?;
    let [here, wine, nowhere] = counts;
    report.held(&format!(
        "{here} blocks are run on the operator's machine and {wine} in Wine; {nowhere}, of programs that Wine does not have, \
         are held against Microsoft's pages"
    ));
    Ok(())
}

/// Runs commands of Windows, as typed one after the other: the first that fails ends them.
fn cmd(session: &mut Session, folder: &Path, commands: &str) -> Result<(), String> {
    let mut lines = vec!["@echo off".to_owned()];
    for line in commands.lines().filter(|line| !line.trim().is_empty()) {
        lines.push(line.to_owned());
        lines.push("if errorlevel 1 exit /b 1".to_owned());
    }
    let place: PathBuf = session.logs.join("block.cmd");
    fs::write(&place, lines.join("\r\n") + "\r\n").map_err(failed(&place))?;
    session.events.mark()?;
    session.batch(&place, folder)?;
    for line in commands.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["net", "start", "weir"] => session.events.one("DriverStarted", |_| true).map(drop)?,
            ["net", "stop", "weir"] => left(session)?,
            _ => {}
        }
    }
    Ok(())
}

/// Does what the rest needs, where Wine has no program for it.
fn in_another_way(session: &Session, commands: &str) -> Result<(), String> {
    for line in commands.lines().map(str::trim) {
        if line.starts_with("pnputil /add-driver weir.inf") {
            install::run_section(session)?;
            session.guard_key(GUARDED)?;
        } else if line.starts_with("pnputil /delete-driver") {
            session.delete_service()?;
        }
    }
    Ok(())
}
