"""Model versions and what may be in production.

package   what is registered, and its way back as files    gates     PURE: verdicts on a version
versions  what is known of versions                        audit     the trail of what was in production
promote   the one way an alias moves                   witness   MLflow's memory of the trail
probe     a model in a fresh process                   paired    PURE: how sure a difference is
"""
