//! Commands of Windows that Wine does not have: what each takes, by Microsoft's page of it.

/// A command.
struct Known {
    /// The words that it begins with.
    words: &'static [&'static str],
    /// What may follow: options, and words with a meaning.
    takes: &'static [&'static str],
    /// The title of Microsoft's page.
    page: &'static str,
}

/// Not run, here or anywhere.
const KNOWN: &[Known] = &[
    Known {
        words: &["pnputil", "/add-driver"],
        takes: &["/subdirs", "/install", "/reboot"],
        page: "PnPUtil Command Syntax",
    },
    Known {
        words: &["pnputil", "/delete-driver"],
        takes: &["/uninstall", "/force", "/reboot"],
        page: "PnPUtil Command Syntax",
    },
    Known {
        words: &["pnputil", "/enum-drivers"],
        takes: &["/class", "/files"],
        page: "PnPUtil Command Syntax",
    },
    Known { words: &["bcdedit", "/set"], takes: &["on", "off"], page: "BCDEdit /set" },
    Known {
        words: &["sc", "config"],
        takes: &["start=", "boot", "system", "auto", "demand", "disabled"],
        page: "sc.exe config",
    },
    Known { words: &["reg", "load"], takes: &[], page: "reg load" },
    Known { words: &["reg", "unload"], takes: &[], page: "reg unload" },
    // Wine has it, but no registry of another system beside its own.
    Known {
        words: &["reg", "add", r"HKLM\off\ControlSet001\Services\weir"],
        takes: &["/v", "/t", "/d", "/f"],
        page: "reg add",
    },
    Known { words: &["poolmon"], takes: &["/iWr*"], page: "PoolMon Startup Command" },
    Known { words: &["certutil"], takes: &["-addstore", "-delstore"], page: "certutil" },
    Known { words: &["shutdown"], takes: &["/r", "/t"], page: "shutdown" },
    Known {
        words: &["logman", "create", "trace"],
        takes: &["-p", "-o", "-ets", "-ct", "-mode", "-nb", "-bs", "-max", "-f"],
        page: "logman create trace",
    },
    Known { words: &["logman", "update", "trace"], takes: &["-p", "-ets"], page: "logman update" },
    Known {
        words: &["logman", "start"],
        takes: &["-p", "-o", "-ets", "-ct", "-mode", "-nb", "-bs", "-max"],
        page: "logman start | stop",
    },
    Known { words: &["logman", "stop"], takes: &["-ets"], page: "logman start | stop" },
    Known { words: &["logman", "query"], takes: &["-ets", "providers"], page: "logman query" },
    Known { words: &["wpr", "-start"], takes: &["-filemode"], page: "WPR Command-Line Options" },
    Known { words: &["wpr", "-stop"], takes: &[], page: "WPR Command-Line Options" },
    Known { words: &["wpr", "-cancel"], takes: &[], page: "WPR Command-Line Options" },
    Known { words: &["wpr", "-status"], takes: &[], page: "WPR Command-Line Options" },
    Known {
        words: &["tracerpt"],
        takes: &["-o", "-of", "-y", "-summary", "-report", "CSV", "XML", "EVTX"],
        page: "tracerpt",
    },
    Known {
        words: &["netsh", "wfp", "show"],
        takes: &["filters", "state", "netevents", "boottimepolicy"],
        page: "Netsh WFP Commands",
    },
    Known { words: &["stampinf"], takes: &["-f", "-d", "-a", "-v"], page: "Stampinf Command Options" },
    Known {
        words: &["infverif"],
        takes: &["/v", "/w", "/u", "/k"],
        page: "Running InfVerif from the command line",
    },
    Known { words: &["inf2cat"], takes: &["/driver", "/os"], page: "Inf2Cat" },
    Known {
        words: &["signtool", "sign"],
        takes: &["/fd", "/f", "/p", "/sha1", "/tr", "/td", "/v"],
        page: "SignTool",
    },
];

/// Holds each line against what its program takes. A word that looks like an option is one that is known; other words are
/// the user's.
///
/// # Errors
/// The line, and what is not known.
pub fn check(commands: &str) -> Result<(), String> {
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !is_right(line)? {
            return Err(format!("`{line}`: nothing is known of it, or Wine has it"));
        }
    }
    Ok(())
}

/// Holds one line against what its program takes; `false` if nothing is known of it.
///
/// # Errors
/// What is not known of its options.
pub fn is_right(line: &str) -> Result<bool, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let known = KNOWN.iter().find(|known| {
        let mut begins = words.iter().zip(known.words);
        words.len() >= known.words.len() && begins.all(|(word, it)| word.eq_ignore_ascii_case(it))
    });
    let Some(known) = known else { return Ok(false) };
    for word in words.iter().skip(known.words.len()) {
        let option = word.split(':').next().unwrap_or_default();
        let looks = word.starts_with(['-', '/']) || word.ends_with('=');
        if looks && !known.takes.iter().any(|it| it.eq_ignore_ascii_case(option)) {
            return Err(format!(
                "`{line}`: {} does not take {word}, by the page {:?}",
                known.words.join(" "),
                known.page
            ));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_a_program_does_not_take_is_found() {
        assert_eq!(check("pnputil /add-driver weir.inf /install\nsc config weir start= disabled\n"), Ok(()));
        assert!(check("pnputil /add-driver weir.inf /instal").is_err());
        assert!(check("sc config weir begin= disabled").is_err());
        assert!(check("sc start weir").is_err(), "Wine has it");
        assert!(check("format c:").is_err());
    }
}
