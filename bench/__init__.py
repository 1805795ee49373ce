"""Speed, measured: churnwatch and its peers on the same events, the same broker, in the same run.

``python -m bench --help`` says how; ``docs/speed.md`` what the figures mean.
"""
