//! Where the two sides differ and are known to.

/// A case that needs what the balancer does not have yet. It has to fail: when it does not any more, it goes from this list.
pub const NOT_BUILT: &[(&str, &str)] = &[];

/// Where the balancer is not Linux on purpose. A case names one (`! NAME`) before the step where it shows. docs/oracle.md has the
/// same list.
pub const CHOICES: &[(&str, &str)] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_choice_and_no_other() {
        let text = include_str!("../../../docs/oracle.md");
        let (_, table) = text.split_once("| choice | |\n|---|---|\n").expect("the table of choices");
        let lines: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
        let expected: Vec<_> = CHOICES.iter().map(|(name, reason)| format!("| {name} | {reason} |")).collect();
        assert_eq!(lines, expected, "docs/oracle.md is to have this table");
    }
}
