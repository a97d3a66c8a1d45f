"""Registered models: packages, verdicts, aliases and their audit trail.

package     builds, registers and downloads model packages
versions    facts, evaluation and verdicts of a version in MLflow
names       names that models and aliases may have
rules       requirements as users declare them
gates       verdicts on a version; pure
recorded    records in a version's tags, and faults of edited ones
measurements  scores that promotions measured, beside the audit trail
package_code  code of a package that must not be run
preferred   evidence of people's votes, valid at any time; pure
significance  intervals and paired tests; pure
smoke_test  runs a package in a fresh process
audit       append-only trail of alias moves
promote     moves aliases
"""
