//! Commands that a text mentions: what stands between backquotes and begins with `weir` or `cargo xtask` names commands and
//! options that there are; what begins with a program of Windows that Wine does not have takes what it is given.

use clap::{Command, CommandFactory as _};
use pulldown_cmark::{Event, Parser};

use super::windows;

/// Checks all of these documents.
///
/// # Errors
/// Each mention of what is not there.
pub fn check(documents: &[String]) -> Result<(), String> {
    let weir = weir_cli::cli::Cli::command();
    let xtask = crate::Cli::command();
    let mut wrong = Vec::new();
    let mut mentions = 0;
    for name in documents {
        let text = super::text(name)?;
        for (event, range) in Parser::new(&text).into_offset_iter() {
            let Event::Code(code) = event else { continue };
            let line = 1 + text[..range.start].matches('\n').count();
            match windows::is_right(&code) {
                Ok(known) => mentions += usize::from(known),
                Err(error) => wrong.push(format!("{name}:{line}: {error}")),
            }
            let Some((command, words)) = words(&code, &weir, &xtask) else { continue };
            mentions += 1;
            if let Err(error) = follow(command, &words) {
                wrong.push(format!("{name}:{line}: `{code}`: {error}"));
            }
        }
    }
    if wrong.is_empty() {
        println!("== {mentions} commands that texts mention are commands");
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// Which command line it is, and the words behind its name.
fn words<'c, 't>(
    code: &'t str,
    weir: &'c Command,
    xtask: &'c Command,
) -> Option<(&'c Command, Vec<&'t str>)> {
    let words: Vec<_> = code.split_whitespace().collect();
    match &*words {
        ["weir", rest @ ..] if !rest.is_empty() => Some((weir, rest.to_vec())),
        ["cargo", "xtask", rest @ ..] if !rest.is_empty() => Some((xtask, rest.to_vec())),
        _ => None,
    }
}

/// Goes down the commands as far as the words are names of such, and looks whether the options are theirs.
fn follow(mut command: &Command, words: &[&str]) -> Result<(), String> {
    let mut above: Vec<&Command> = Vec::new();
    let mut operands = false;
    for word in words {
        if let Some(option) = word.strip_prefix("--") {
            let option = option.split(['=', '[']).next().unwrap_or_default().trim_end_matches([']', '…']);
            let known = |it: &Command| it.get_arguments().any(|argument| argument.get_long() == Some(option));
            let of_all = ["help", "version", ""].contains(&option);
            if !of_all && !known(command) && !above.iter().any(|it| known(it)) {
                return Err(format!("{} has no option --{option}", command.get_name()));
            }
            operands = true;
        } else if let Some(below) = command.find_subcommand(word).filter(|_| !operands) {
            above.push(command);
            command = below;
        } else if command.has_subcommands()
            && !operands
            && word.chars().all(|it| it.is_ascii_lowercase() || it == '-')
        {
            return Err(format!("{} has no command {word}", command.get_name()));
        } else {
            operands = true;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mention_is_followed_down_to_its_options() {
        let command = weir_cli::cli::Cli::command();
        let follow = |text: &str| follow(&command, &text.split_whitespace().collect::<Vec<_>>());
        assert_eq!(follow("ctl status"), Ok(()));
        assert_eq!(follow("ctl --json status"), Ok(()));
        assert_eq!(follow("policy check FILE --output IMAGE"), Ok(()));
        assert_eq!(follow("ctl …"), Ok(()));
        assert!(follow("ctl stat").is_err());
        assert!(follow("policy check --outptu IMAGE").is_err());
        assert!(follow("polish").is_err());
    }
}
