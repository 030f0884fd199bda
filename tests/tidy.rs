//! The style of this repository, as far as a program can tell.
//!
//! Each rule is a function from one file to what is wrong in it; each is first shown a planted fault, so that a rule
//! that has gone blind fails too.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 400;
const MOST_IN_FUNCTION: usize = 70;
/// Code of the core, layer by layer: all of `src` but the systems' side, without comments, blank lines and tests.
const MOST_IN_LAYER: [(&str, &[&str], usize); 5] = [
    ("the hand-off", &["src/handoff", "src/sync"], 720),
    ("the loop", &["src/event_loop"], 1_060),
    ("the proactor", &["src/watcher", "src/error.rs", "src/limits.rs", "src/lib.rs"], 3_550),
    ("typed sessions", &["src/typed", "src/testkit"], 2_200),
    // Prose.
    ("the guides", &["src/guide.rs", "src/migration.rs", "src/verification.rs"], 5),
];

/// A line, taken apart: the code with its strings emptied, and the comment.
#[derive(Debug, Default)]
struct Line {
    code: String,
    comment: String,
    text: String,
    /// Inside of a module of tests.
    test: bool,
}

#[derive(Debug)]
struct File {
    path: String,
    lines: Vec<Line>,
}

/// What the lexer is inside of at the end of a line.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Code,
    Comment(usize),
    Text,
    Raw(usize),
}

fn take_apart(text: &str, within: &mut Within) -> Line {
    let mut line = Line { text: text.to_string(), ..Line::default() };
    let chars: Vec<char> = text.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        let next = rest.get(1).copied();
        match *within {
            Within::Comment(depth) => {
                let step = match (rest[0], next) {
                    ('*', Some('/')) => -1,
                    ('/', Some('*')) => 1,
                    _ => 0,
                };
                line.comment.push(rest[0]);
                i += if step == 0 { 1 } else { 2 };
                let depth = depth.saturating_add_signed(step);
                *within = if depth == 0 { Within::Code } else { Within::Comment(depth) };
            }
            Within::Text => {
                if rest[0] == '"' {
                    line.code.push('"');
                    *within = Within::Code;
                }
                i += if rest[0] == '\\' { 2 } else { 1 };
            }
            Within::Raw(hashes) => {
                let ends = rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
                if ends {
                    line.code.push('"');
                    *within = Within::Code;
                }
                i += if ends { 1 + hashes } else { 1 };
            }
            Within::Code => {
                let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
                if rest[0] == '/' && next == Some('/') {
                    line.comment.extend(rest);
                    break;
                } else if rest[0] == '/' && next == Some('*') {
                    *within = Within::Comment(1);
                    i += 2;
                } else if rest[0] == 'r' && rest.get(1 + hashes) == Some(&'"') && !follows_word(&line.code) {
                    line.code.push('"');
                    *within = Within::Raw(hashes);
                    i += 2 + hashes;
                } else if rest[0] == '"' {
                    line.code.push('"');
                    *within = Within::Text;
                    i += 1;
                } else if rest[0] == '\'' {
                    // A character, or a lifetime.
                    let end = if next == Some('\\') {
                        rest[2..].iter().skip(1).position(|c| *c == '\'').map(|n| n + 4)
                    } else {
                        None
                    };
                    let end = end.or_else(|| (rest.get(2) == Some(&'\'')).then_some(3));
                    line.code.push('\'');
                    i += end.unwrap_or(1);
                } else {
                    line.code.push(rest[0]);
                    i += 1;
                }
            }
        }
    }
    line
}

fn follows_word(code: &str) -> bool {
    code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let mut within = Within::Code;
        let rust = path.ends_with(".rs");
        let mut lines: Vec<Line> = text
            .lines()
            .map(
                |text| if rust { take_apart(text, &mut within) } else { Line { text: text.into(), ..Line::default() } },
            )
            .collect();
        let all_test = ["tests/", "loom-tests/", "benches/"].iter().any(|folder| path.starts_with(folder))
            || path.ends_with("tests.rs")
            || path.ends_with("against_kernel.rs")
            || path.ends_with("sim/models.rs");
        // A module of tests is the last thing in its file.
        let begin = lines.windows(4).position(|w| {
            let gate = w[0].code.starts_with("#[cfg(") && w[0].code.contains("test") && !w[0].code.contains("any(");
            gate && w.iter().any(|line| line.code.contains("mod ") && line.code.ends_with('{'))
        });
        for (i, line) in lines.iter_mut().enumerate() {
            line.test = all_test || begin.is_some_and(|begin| i >= begin);
        }
        Self { path: path.to_string(), lines }
    }

    fn in_src(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// The lines for which `bad` holds, as complaints.
    fn each(&self, what: &str, bad: impl Fn(usize, &Line) -> bool) -> Vec<String> {
        let bad = self.lines.iter().enumerate().filter(|(i, line)| bad(*i, line));
        bad.map(|(i, line)| format!("{}:{}: {what}: {}", self.path, i + 1, line.text.trim())).collect()
    }

    /// Does a comment stand on the line, or right above it (attributes may be in between)?
    fn commented(&self, i: usize, says: &str) -> bool {
        if self.lines[i].comment.contains(says) {
            return true;
        }
        for line in self.lines[..i].iter().rev() {
            let code = line.code.trim();
            if code.is_empty() && !line.comment.is_empty() {
                if line.comment.contains(says) {
                    return true;
                }
            } else if !(code.starts_with("#[") || code.ends_with('=') || code.ends_with('(')) {
                return false;
            }
        }
        false
    }

    /// The line on which the bracket opened first at or after line `from` closes.
    fn closing(&self, from: usize, open: char, close: char) -> Option<usize> {
        let mut depth = 0;
        for (i, line) in self.lines.iter().enumerate().skip(from) {
            for c in line.code.chars() {
                if c == open {
                    depth += 1;
                } else if c == close {
                    depth -= 1;
                    if depth == 0 {
                        return Some(i);
                    }
                } else if c == ';' && depth == 0 {
                    return None;
                }
            }
        }
        None
    }
}

fn has_word(code: &str, word: &str) -> bool {
    let joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| !joined(code[..at].chars().next_back()) && !joined(code[at + word.len()..].chars().next()))
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let skipped = name == "target" || name == ".git" || name == "Cargo.lock" || name.starts_with("mutants.out");
        if skipped {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), into);
        } else {
            into.push(entry.path());
        }
    }
}

/// Every file of the repository.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(root, &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        Some(File::new(name, &String::from_utf8(fs::read(path).unwrap()).ok()?))
    };
    let files: Vec<File> = paths.iter().filter_map(read).collect();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the repository was not found");
    files
}

/// Holds every file to a rule that has just caught `fault` in a file called `path`.
#[track_caller]
fn enforce(rule: impl Fn(&File) -> Vec<String>, path: &str, fault: &str) {
    assert_eq!(rule(&File::new(path, fault)).len(), 1, "the rule does not see its fault: {fault}");
    let complaints: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn no_source_file_is_too_long() {
    let rule = |file: &File| {
        let n = file.lines.len();
        let bad = file.in_src() && n > MOST_LINES;
        if bad { vec![format!("{}: {n} lines, at most {MOST_LINES}", file.path)] } else { vec![] }
    };
    enforce(rule, "src/a.rs", &"//!\n".repeat(MOST_LINES + 1));
}

/// A line of code says something: it is not blank, a comment, an import, an attribute or a lone bracket.
fn says_something(line: &Line) -> bool {
    let code = line.code.trim();
    let quiet = ["use ", "pub use ", "pub(crate) use ", "#["].iter().any(|start| code.starts_with(start));
    !line.test && !quiet && code.chars().any(char::is_alphanumeric)
}

#[test]
fn the_core_is_small() {
    let files = files();
    let core = || files.iter().filter(|file| file.in_src() && !file.path.starts_with("src/sys/"));
    let count = |file: &File| file.lines.iter().filter(|line| says_something(line)).count();
    let mut seen = 0;
    for (layer, places, most) in MOST_IN_LAYER {
        let inside = |file: &&File| places.iter().any(|place| file.path.starts_with(place));
        let n: usize = core().filter(inside).map(count).sum();
        core().filter(inside).for_each(|file| println!("{:5} {}", count(file), file.path));
        assert!((n > 100 || most < 100) && n <= most, "{n} lines of code in {layer}, at most {most}");
        seen += core().filter(inside).count();
    }
    assert_eq!(seen, core().count(), "every file is in one layer");
}

#[test]
fn no_function_is_too_long() {
    let rule = |file: &File| {
        let mut complaints = Vec::new();
        let functions = file.lines.iter().enumerate().filter(|(_, line)| has_word(&line.code, "fn"));
        for (i, line) in functions.filter(|_| file.in_src()) {
            let begins = line.code.find("fn ").is_some_and(|at| line.code[at + 3..].contains('('));
            let Some(end) = file.closing(i, '{', '}').filter(|_| begins) else { continue };
            if end - i >= MOST_IN_FUNCTION {
                complaints.push(format!("{}:{}: {} lines: {}", file.path, i + 1, end - i + 1, line.text.trim()));
            }
        }
        complaints
    };
    enforce(rule, "src/a.rs", &format!("fn f() {{\n{}}}\n", "    g();\n".repeat(MOST_IN_FUNCTION - 1)));
}

#[test]
fn what_may_panic_says_why_it_does_not() {
    let rule = |file: &File| {
        file.each("no reason in a comment", |i, line| {
            let panics = line.code.contains(".unwrap()") || line.code.contains(".expect(");
            // The simulated system is a test kit: a panic there is a failed test, and its text is the reason.
            let kit = file.path.starts_with("src/sys/sim/");
            panics && file.in_src() && !kit && !line.test && !file.commented(i, "// ")
        })
    };
    enforce(rule, "src/a.rs", "fn f() {\n    g().unwrap();\n    // It is there.\n    h().expect(\"\");\n}\n");
}

#[test]
fn unsafe_code_has_its_proof() {
    let rule = |file: &File| {
        file.each("no SAFETY comment", |i, line| {
            let code = line.code.replace("unsafe fn", "");
            has_word(&code, "unsafe") && !file.commented(i, "SAFETY:")
        })
    };
    enforce(rule, "tests/a.rs", "// SAFETY: so.\nunsafe { f() }\nlet x =\n    unsafe { f() };\n");
}

#[test]
fn unsafe_code_stays_in_the_hand_off() {
    let rule = |file: &File| {
        file.each("unsafe outside of src/handoff", |_, line| {
            has_word(&line.code, "unsafe") && file.in_src() && !file.path.starts_with("src/handoff/")
        })
    };
    enforce(rule, "src/watcher/a.rs", "// SAFETY: so.\nunsafe { f() } // unsafe\n");
}

#[test]
fn no_ordering_is_sequentially_consistent() {
    let rule =
        |file: &File| file.each("loom takes it for AcqRel", |_, line| file.in_src() && has_word(&line.code, "SeqCst"));
    enforce(rule, "src/a.rs", "//! Not SeqCst.\nx.load(SeqCst);\n");
}

#[test]
fn nothing_is_left_to_do() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
    ];
    let rule = |file: &File| file.each("unfinished", |_, line| words.iter().any(|word| has_word(&line.text, word)));
    enforce(rule, "README.md", &format!("{} later\n", words[0]));
    let holes = |file: &File| {
        let table = |line: &Line| line.comment.starts_with("//! |") && line.comment.contains("| @");
        file.each("a figure to be filled in", |_, line| table(line))
    };
    enforce(holes, "loom-tests/a.rs", "//! | a | @A |\n");
}

#[test]
fn every_file_says_what_it_is_for() {
    let rule = |file: &File| {
        let silent = file.path.ends_with(".rs") && !file.lines.iter().any(|line| line.text.starts_with("//!"));
        let late = file.path.ends_with(".rs") && !file.lines.first().is_some_and(|line| line.text.starts_with("//!"));
        if silent || late { vec![format!("{}: does not start with `//!`", file.path)] } else { vec![] }
    };
    enforce(rule, "src/a.rs", "use std::io;\n//! Late.\n");
}

#[test]
fn no_machine_is_named() {
    let folders = [concat!("/wo", "rk"), concat!("/tm", "p"), concat!("/ro", "ot"), concat!("/ho", "me")];
    let registries = [
        concat!("[sour", "ce."),
        concat!("replace-", "with"),
        concat!("registry", "+http"),
        concat!("index.", "crates.io"),
    ];
    let rule = |file: &File| {
        file.each("names a machine's folder or registry", |_, line| {
            let folder = |name: &&str| {
                line.text.match_indices(*name).any(|(at, _)| {
                    let after = line.text[at + name.len()..].chars().next();
                    let before = line.text[..at].chars().next_back();
                    !after.is_some_and(char::is_alphanumeric)
                        && !before.is_some_and(|c| c.is_alphanumeric() || "./}_".contains(c))
                })
            };
            folders.iter().any(folder) || registries.iter().any(|name| line.text.contains(name))
        })
    };
    enforce(rule, "ci/a.sh", &format!("cd {}/x\n", folders[0]));
}

#[test]
fn every_model_states_its_floor() {
    let rule = |file: &File| {
        let model =
            file.path.starts_with("loom-tests/") && !file.path.contains("/common/") && file.path.ends_with(".rs");
        let header = |line: &&Line| line.comment.starts_with("//!") && line.comment.contains("floor");
        let stated = file.lines.iter().any(|line| header(&line));
        // Models are run by the wrapper alone, which counts executions and fails below the floor.
        let bare = file.lines.iter().any(|line| line.code.contains("loom::model"));
        if model && (!stated || bare) { vec![format!("{}: no floor", file.path)] } else { vec![] }
    };
    enforce(rule, "loom-tests/a.rs", "//! Q: does it?\n");
}

#[test]
fn no_test_is_left_out() {
    let rule =
        |file: &File| file.each("left out", |_, line| line.code.contains("#[ignore") || line.code.contains(", ignore"));
    enforce(rule, "tests/a.rs", "#[test]\n#[ignore]\nfn f() {}\n");
}

#[test]
fn every_lint_that_is_silenced_has_a_reason() {
    let rule = |file: &File| {
        file.each("no reason", |i, line| {
            let code = line.code.trim();
            let attribute = code.starts_with("#[") || code.starts_with("#![");
            let silences = ["allow(", "expect("].iter().any(|word| code.contains(word)) || code.ends_with("_attr(");
            let Some(end) = file.closing(i, '[', ']').filter(|_| attribute) else { return false };
            let whole: String = file.lines[i..=end].iter().map(|line| line.code.as_str()).collect();
            silences && (whole.contains("allow(") || whole.contains("expect(")) && !whole.contains("reason =")
        })
    };
    enforce(rule, "tests/a.rs", "#[allow(dead_code)]\n#[expect(\n    unused,\n    reason = \"so\"\n)]\nfn f() {}\n");
}
