//! The units for systemd.

use std::fs;
use std::path::Path;

use super::{PATIENCE, deployed, found, read};
use crate::support::{Directory, End, Program};

const UNITS: [&str; 2] = ["afterimage@.service", "afterimage-serve@.service"];

/// systemd's exposure of a unit, in tenths, that none may exceed: 0 is nothing, 100 everything.
const EXPOSURE: &str = "--threshold=15";

fn systemd_analyze(arguments: &[&str], directory: &Path) -> End {
    let program = Path::new("/usr/bin/systemd-analyze");
    assert!(program.exists(), "there is no {}; run tests/install test", program.display());
    Program::new(program).arguments(arguments.iter().copied()).working_directory(directory).run(PATIENCE)
}

/// The units, with a program that exists, as systemd looks for it.
fn copies(change: impl Fn(String) -> String) -> Directory {
    let directory = Directory::new();
    for unit in UNITS {
        let text = read(&deployed("systemd").join(unit));
        let text = text.replace("/usr/local/bin/afterimage", "/bin/true");
        fs::write(directory.join(unit), change(text)).unwrap();
    }
    directory
}

#[test]
fn systemd_understands_the_units() {
    let directory = copies(|text| text);
    for unit in UNITS {
        let end = systemd_analyze(&["verify", &format!("./{unit}")], directory.path()).expect(0);
        // What it does not know it only mentions.
        assert!(!end.stderr.contains(unit.trim_end_matches(".service")), "{}", end.stderr);
    }
    let directory = copies(|text| text.replace("Restart=on-failure", "Restart=on-faliure"));
    let end = systemd_analyze(&["verify", "./afterimage@.service"], directory.path());
    assert!(end.stderr.contains("on-faliure"), "{}", end.stderr);
}

#[test]
fn the_units_are_hardly_exposed() {
    let security = |directory: &Directory, unit: &str| {
        systemd_analyze(&["security", "--offline=true", EXPOSURE, &format!("./{unit}")], directory.path())
    };
    let directory = copies(|text| text);
    for unit in UNITS {
        security(&directory, unit).expect(0);
    }
    let directory = copies(|text| text.replace("\nCapabilityBoundingSet=\n", "\n"));
    security(&directory, UNITS[0]).expect(1);
}

#[test]
fn the_units_end_and_begin_as_the_exit_codes_say() {
    for unit in UNITS {
        let text = read(&deployed("systemd").join(unit));
        for line in ["Restart=on-failure", "RestartPreventExitStatus=2", "StartLimitIntervalSec=0", "User=afterimage"] {
            assert!(text.lines().any(|one| one == line), "{unit} lacks {line}");
        }
        assert!(!found("(?m)^(TimeoutStopSec)=", &text).is_empty(), "{unit}");
    }
    // The code of wrong usage, which no restart mends.
    Program::afterimage(["run", "--no-such-flag"]).run(PATIENCE).expect(2);
    Program::afterimage(["run"]).run(PATIENCE).expect(2);
    assert!(read(&deployed("systemd/afterimage.sysusers.conf")).contains("u afterimage "));
}
