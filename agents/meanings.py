"""What each setting means, in words: for ``docs/configuration.md``, ``config init`` and ``config show``.

The defaults and what is allowed follow from the structs in ``agents.settings``; a test holds both and the
page together.
"""

from __future__ import annotations

from typing import Final

SECTIONS: Final[dict[str, str]] = {
    "kafka": "Where the brokers are, what our topics are called there and how we prove who we are.",
    "redis": "Where the state is kept.",
    "clock": "Live, or a replay.",
    "shop": "What defines the shop's day and money.",
    "policy": "When a warning is raised, what is offered, and what is to be done.",
    "feeds": "When a feed has fallen silent: that is not a silent customer.",
    "prior": "Snapshot 0: the rhythm of all customers, before anything is known of one. `churnwatch prior FILE` "
    "estimates the first five numbers from your own orders.",
    "learning": "What is learned of customers, and when a learned model may decide. `docs/learning.md` has it whole.",
    "privacy": "Who is forgotten, and how long who is silent is kept. `docs/privacy.md` has it whole.",
    "worker": "How one worker process runs.",
}
"""What each section is about."""

EXAMPLES: Final[dict[str, str]] = {
    "kafka.group": '"shop1-workers"',
    "kafka.ca": '"/etc/churnwatch/kafka-ca.pem"',
    "kafka.cert": '"/etc/churnwatch/kafka-client.pem"',
    "kafka.key": '"/etc/churnwatch/kafka-client.key"',
    "kafka.key_password_file": '"/run/secrets/kafka-key"',
    "kafka.sasl": '"SCRAM-SHA-512"',
    "kafka.username": '"churnwatch"',
    "kafka.password_file": '"/run/secrets/kafka"',
    "redis.username": '"churnwatch"',
    "redis.password_file": '"/run/secrets/redis"',
    "redis.ca": '"/etc/churnwatch/redis-ca.pem"',
    "redis.cert": '"/etc/churnwatch/redis-client.pem"',
    "redis.key": '"/etc/churnwatch/redis-client.key"',
    "redis.key_password_file": '"/run/secrets/redis-key"',
    "shop.rates": '{"EUR" = 1.08, "GBP" = 1.27}',
    "shop.closing_days": '["2026-12-25", "2026-12-26"]',
    "learning.horizons": "[14.0, 84.0]",
    "privacy.key_file": '"/run/secrets/privacy"',
    "privacy.keep_prospects_days": "180.0",
    "privacy.keep_lapsed_days": "1095.0",
    "worker.log_key_file": '"/run/secrets/log-key"',
    "worker.otlp_endpoint": '"http://otel-collector:4318"',
    "worker.accept_invalid_until": '["purchases:3:1700"]',
}
"""How one writes what has no default, or an empty one."""

MEANINGS: Final[dict[str, str]] = {
    "application": (
        "Names this installation: consumer group, Redis keys, `source` of alerts. Two applications share "
        "nothing."
    ),
    "kafka.brokers": "Where to begin; the brokers tell the rest.",
    "kafka.prefix": "Put before every topic name, for example `shop1.`.",
    "kafka.inputs": (
        "The input topics that are read. With one, `send` puts everything there and a replay is "
        "reproducible to the byte."
    ),
    "kafka.group": "Consumer group of the workers; unset, it is `application`.",
    "kafka.tls": (
        "Encrypt. The server's certificate is checked against `ca`, or against the system's authorities."
    ),
    "kafka.ca": "PEM file of the authorities that may sign the brokers' certificates.",
    "kafka.cert": "PEM file of our own certificate, where brokers ask for one.",
    "kafka.key": "PEM file of its private key.",
    "kafka.key_password": "Password of that key. Variable or file only.",
    "kafka.key_password_file": "A file that holds it.",
    "kafka.sasl": "How we log in; unset, we do not.",
    "kafka.username": "The user of SASL.",
    "kafka.password": "Its password. Variable or file only.",
    "kafka.password_file": "A file that holds it.",
    "kafka.session_timeout": (
        "Seconds of silence after which the group gives a dead worker's partitions to others."
    ),
    "kafka.request_timeout": "Seconds to wait for an answer of a broker; more than `session_timeout`.",
    "redis.url": (
        "Where the state is. A user and password inside the address are accepted from the variable only "
        "and taken out of it."
    ),
    "redis.username": "The ACL user; unset, the default user.",
    "redis.password": "Its password. Variable or file only.",
    "redis.password_file": "A file that holds it.",
    "redis.ca": "PEM file of the authorities that may sign the server's certificate (`rediss://`).",
    "redis.cert": "PEM file of our own certificate.",
    "redis.key": "PEM file of its private key.",
    "redis.key_password": "Password of that key. Variable or file only.",
    "redis.key_password_file": "A file that holds it.",
    "redis.cluster": "The address is a node of a Redis Cluster.",
    "redis.timeout": "Seconds for one attempt of one call.",
    "redis.patience": (
        "Seconds for all attempts of one call together; then the worker ends with an error. Consumption "
        "pauses meanwhile."
    ),
    "clock.mode": (
        "`wall`: live. `record`: time is what `clock` records say, for replays, files and the demo. "
        "Stored with the partitions; never changed on a running application."
    ),
    "shop.time_zone": "Defines the shop's day.",
    "shop.currency": "The base currency; an event without `currency` is in it.",
    "shop.minor_units": "Its decimal places.",
    "shop.rates": (
        "What one unit of another currency is worth in the base currency. A currency that is not here is "
        "refused."
    ),
    "shop.rates_version": "Names the table of rates; change it with them.",
    "shop.closing_days": "Dates (`2026-12-25`) on which no traffic is expected.",
    "shop.locale": (
        "The language of the sentences in alerts: English, Simplified Chinese, Traditional Chinese."
    ),
    "policy.horizon_days": "Days ahead for which churn is predicted.",
    "policy.medium": "Churn probability from which the risk band is medium.",
    "policy.high": "Churn probability from which it is high.",
    "policy.warn_at": "The lowest band that raises a warning.",
    "policy.hysteresis": "How far below a threshold the probability must fall before the band is left.",
    "policy.rise": "Rise in log-odds since the last purchase that a warning needs besides the band.",
    "policy.lapsed_alive": "Probability of still being a customer below which one counts as lapsed.",
    "policy.lapsed_horizons": "Horizons of silence after which one may count as lapsed.",
    "policy.lapsed_days": "Days of silence after which one counts as lapsed in any case.",
    "policy.look_days": "Days between looks at a silent customer at first.",
    "policy.look_max_days": "Days between looks at most.",
    "policy.complaint_overdue_hours": "Hours after which an open complaint is overdue.",
    "policy.cart_hours": "Hours after which a cart counts as left.",
    "policy.offer_days": "Days an offer stands before it is withdrawn.",
    "policy.offer_pause_days": "Days between two offers to one customer.",
    "policy.offer_repeat_days": "Days before the same offer may come again.",
    "policy.score_change": "Change of probability from which `customer-scores` is written anew.",
    "policy.deliver_per_minute": (
        "Alerts delivered per partition and minute at most; more are recorded and marked."
    ),
    "policy.type_prefix": "Begins the CloudEvents `type` of every alert.",
    "policy.actions": (
        "The measure in a warning, by band, cause, stage and tier. Entries that you set replace these; the "
        "others stay."
    ),
    "feeds.enabled": "Hold churn looks while a topic's traffic has fallen away.",
    "feeds.silent_below": "Share of the usual traffic below which a feed counts as silent.",
    "feeds.min_expected": "Events that must be usual in the window before a feed is judged at all.",
    "feeds.window_hours": "Hours over which traffic is compared.",
    "feeds.window_days": "Days instead, for a feed that carries dates only.",
    "feeds.learn_days": "Days of traffic before a feed is judged.",
    "learning.enabled": "Take snapshots of customers, and let what becomes of them leave to `examples`.",
    "learning.activity": "What ends a silence for a label: a purchase, or a use of the product as well.",
    "learning.snapshot_days": (
        "Most days between two snapshots of one customer; the horizon is cut into equal parts no longer than this."
    ),
    "learning.horizons": "Further horizons in days that are learned beside `policy.horizon_days`, which leads.",
    "learning.gate": "Labels of each outcome (churned, stayed) that must be there before a learned model may decide.",
    "learning.publish_labels": "A model snapshot leaves after so many labels.",
    "learning.publish_seconds": "One leaves so many seconds after the one before, when there is anything new.",
    "learning.keep": "Snapshots that stay in `models`; older ones are deleted.",
    "privacy.key": (
        "The secret with which it is remembered, by a hash, who was forgotten; at least 16 characters, the same on "
        "every worker, never changed. Without it `forget` is refused. Variable or file only."
    ),
    "privacy.key_file": "A file that holds it.",
    "privacy.keep_prospects_days": (
        "Days after their last event for which those who never bought are kept; unset, for ever."
    ),
    "privacy.keep_lapsed_days": (
        "Days after their last event for which those who have bought are kept, whom by then everything calls lapsed; "
        "unset, for ever."
    ),
    "prior.version": "Names snapshot 0 in the alerts.",
    "prior.gap_days": "Median days between purchases of customers who come again.",
    "prior.spread": "Standard deviation of the logarithm of those gaps.",
    "prior.strength": "How many gaps of a customer's own the prior weighs.",
    "prior.defect_a": "Beta prior of leaving after a purchase: a.",
    "prior.defect_b": "Beta prior of leaving after a purchase: b.",
    "prior.open_complaint": "Log-odds of churn for an open complaint.",
    "prior.overdue_complaint": "Added when it is overdue.",
    "prior.recent_complaint": "Log-odds for a complaint that was recently closed.",
    "prior.browsing": "Log-odds per unit of recent browsing.",
    "prior.dissatisfaction": "Log-odds for a low last satisfaction.",
    "prior.said_lost": "Log-odds when the customer said so.",
    "worker.batch": "Records in a micro-batch at most.",
    "worker.sweep_interval": "Seconds between sweeps for due deadlines.",
    "worker.silence_grace": (
        "Seconds to wait after a broker outage before silence counts again: producers deliver late."
    ),
    "worker.startup_deadline": "Seconds to start before `/healthz` fails.",
    "worker.http_host": "Address of `/metrics`, `/healthz`, `/readyz`; `0.0.0.0` in a container.",
    "worker.http_port": "Its port; 0 takes any that is free.",
    "worker.log_level": "The least severe level that is logged.",
    "worker.log_format": "`json`: one object a line; `console`: for people; `auto`: `console` on a terminal, `json` elsewhere.",
    "worker.log_key": "Logs and errors of a worker name customers by a keyed hash (HMAC-SHA256 by this key) instead of their id.",
    "worker.log_key_file": "A file that holds it.",
    "worker.otlp_endpoint": "Send OpenTelemetry spans there, by OTLP over HTTP; needs the extra `otel`.",
    "worker.accept_invalid_until": (
        "Positions up to which invalid records are let through to `dead-letters` although there are so "
        "many that the worker stopped."
    ),
    "worker.trainer": "Run the trainer in the worker's process too: for a demo, or a shop with one worker.",
    "worker.shadow": (
        "Decide and record, deliver nothing: every alert goes to `decisions`, withheld as `shadow`. The same on all "
        "workers."
    ),
}
"""What each key means, by its dotted name."""
