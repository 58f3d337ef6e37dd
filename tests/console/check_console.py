#!/usr/bin/env python3
"""The console in a real headless Chromium, on a real agent with what the command line put into it: every view shows what the command line
says, works by the keyboard alone, has no fault that axe finds in light and dark, asks nobody but the agent, does nothing that a record
tells it to, survives the agent's stop. Pictures of it are taken; UPDATE_DOCS=1 puts them into docs/images. Called by
hack/check-console.sh with the folder of the programs; listens on free ports of 127.0.0.1; two minutes."""

import base64
import os
import pathlib
import sys
import tempfile

from browser import Browser, asks, colours, facts, focused, go, looks, settled, table, violations
from checking import fail, wait_for
from cluster import LONG, MANY, OTHER_WAY, Cluster, fill, flow

IMAGES = pathlib.Path("docs/images")
LARGEST_IMAGE = 150_000
VIEWS = ["/", "/topics", "/topics/orders", "/topics/odd/records?partition=0", "/groups", "/groups/settlement", "/agents", "/agents/agent-0", "/clients",
         "/rates", "/nowhere"]
# name, address, scheme, how many looks before it is taken
PICTURES = [("overview-light", "/", "light", 12), ("overview-dark", "/", "dark", 12), ("topic-light", "/topics/orders", "light", 0),
            ("records-light", "/topics/orders/records?partition=2&limit=10", "light", 0), ("group-dark", "/groups/billing", "dark", 0),
            ("rates-dark", "/rates", "dark", 12)]


HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def number(value):
    return f"{value:,}"


def equal(what, shown, known):
    if shown != known:
        fail(f"{what}: the page shows {shown!r}, the command line {known!r}")


def holds(what, condition):
    if not condition:
        fail(what)


def overview_shows_the_cluster(browser, cluster):
    page = browser.open()
    known = cluster.ask("cluster")
    shown = {name: page.locator(f"[data-key='card-{name}'] .value").inner_text() for name in ("Topics", "Partitions", "Agents")}
    equal("overview", shown, {"Topics": number(known["topics"]), "Partitions": number(known["partitions"]), "Agents": number(len(known["agents"]))})
    about = facts(page, "about")
    equal("about", (about["Cluster"], about["Agent"], about["Version"]), (known["cluster_id"], "agent-0", known["version"]))
    equal("readiness", [row[1] for row in table(page, "readiness")], ["yes"] * 7)


def topics_show_what_there_is(browser, cluster):
    page = browser.open("/topics?filter=s")
    known = {}
    for topic in cluster.ask("topic", "list"):
        described = cluster.ask("topic", "describe", topic["name"])
        known[topic["name"]] = (number(len(described["partitions"])), number(sum(p["high_watermark"] - p["log_start_offset"] for p in described["partitions"])))
    go(page, "/topics?filter=e&sort=partitions")
    page.wait_for_function("() => document.querySelector('#topics caption').innerText.includes(' of ')")
    rows = [row for row in table(page, "topics") if row[0] != "payments"]
    equal("topics", {name: (partitions, records) for name, partitions, records, *_ in rows}, {name: known[name] for name in known if "e" in name and name != "payments"})
    go(page, "/topics?filter=nothing%20of%20it")
    page.get_by_text("No topic's name holds").wait_for()


def one_topic_shows_its_partitions(browser, cluster):
    page = browser.open("/topics/orders")
    known = cluster.ask("topic", "describe", "orders")
    rows = [[str(p["partition"]), p["leader"], number(p["leader_epoch"]), number(p["log_start_offset"]), number(p["high_watermark"]),
             number(p["high_watermark"] - p["log_start_offset"])] for p in known["partitions"]]
    equal("partitions", [row[:6] for row in table(page, "partitions")], rows)
    equal("log start", rows[1][3], "5")
    shown = facts(page)
    equal("facts", (shown["Id"], shown["Records"]), (known["topic_id"], number(sum(p["high_watermark"] - p["log_start_offset"] for p in known["partitions"]))))
    page.get_by_text("Settings: 1 of").click()
    settings = {row[0]: (row[1], row[2]) for row in table(page, "settings")}
    equal("settings", {key: value for key, (value, _) in settings.items()}, known["config"])
    equal("own settings", [key for key, (_, source) in settings.items() if source == "topic"], known["overridden"])
    # Open details stay open when the page looks again.
    looks(page, 2, asks(page))
    holds("the settings closed by themselves", page.locator("#settings").is_visible())
    with browser.excused():
        go(page, "/topics/gone")
        page.get_by_role("alert").get_by_text("UNKNOWN_TOPIC_OR_PARTITION").wait_for()
        page.get_by_role("link", name="Go to the list").click()
        page.locator("#topics").wait_for()


def groups_show_their_lag(browser, cluster):
    page = browser.open("/groups")
    rows = {row[0]: row for row in table(page, "groups")}
    for group in cluster.ask("group", "list"):
        equal(group["group_id"], rows[group["group_id"]][1:3], [group["state"], number(group["members"])])
    known = cluster.ask("group", "describe", "billing")
    equal("lag of the list", rows["billing"][4], number(known["lag"]))
    go(page, "/groups/billing")
    shown = [row[:4] for row in table(page, "places")]
    equal("places", shown, [[f"{o['partition']['topic']}-{o['partition']['partition']}", number(o["committed"]["offset"]), number(o["high_watermark"]), number(o["lag"])]
                            for o in known["offsets"]])
    equal("lag", (facts(page)["Lag"], known["lag"]), (f"{known['lag']} records", 37))
    go(page, "/groups/settlement")
    member = cluster.ask("group", "describe", "settlement")["group"]["members"][0]
    row = table(page, "members")[0]
    equal("member", (row[0], row[1], row[4]), (member["member_id"], member["client_id"], number(len(member["assignment"]))))
    holds("nobody is said to read", all(row[4] == member["member_id"] for row in table(page, "places")))


def agents_show_their_leases(browser, cluster):
    page = browser.open("/agents")
    known = cluster.ask("cluster")["agents"][0]
    row = table(page, "agents")[0]
    equal("agent", (row[0], row[2], row[4], row[5], row[6]), (f"{known['agent_id']} this one", number(known["leases"]), known["zone"], known["grpc_address"], known["version"]))
    page.get_by_role("link", name="agent-0").click()
    page.locator("#leases").wait_for()
    led = [row[0] for row in table(page, "leases") if row[1] == "partition"]
    topics = {topic["name"]: cluster.ask("topic", "describe", topic["name"])["partitions"] for topic in cluster.ask("topic", "list")}
    everything = sorted((name, p["partition"]) for name, partitions in topics.items() for p in partitions)
    equal("leases", led, [f"{name}-{partition}" for name, partition in everything])


def rates_are_those_of_the_counters(browser, cluster):
    page = browser.open("/rates")
    looks(page, 4, asks(page))
    row = {row[0].split(" acknowledged")[0]: row for row in table(page, "counters")}["Records in"]
    rate = float(row[1].removesuffix("/s").replace(",", ""))
    holds(f"400 records a second are written, and {rate} shown", 200 < rate < 600)
    before = cluster.counter("streamhouse_agent_produced_records_total")
    shown = cluster.data("rates")["values"]["produced_records"]
    holds("the counter is not the one Prometheus gets", before <= shown <= cluster.counter("streamhouse_agent_produced_records_total"))
    holds("no course is drawn", page.locator("#counters polyline").count() > 5)
    holds("no latency is told", table(page, "latency")[1][1].startswith("\u2264"))


def records_are_what_was_written(browser, cluster):
    page = browser.open("/topics/odd/records?partition=0&offset=0")
    known = {record["key"]: record for record in cluster.read("odd", 0, 0, 7)}
    rows = {row[2]: row for row in table(page, "records")}
    equal("keys", [row[2] for row in table(page, "records")], list(known))
    equal("a value with markup", rows["plain"][3], known["plain"]["value"])
    raw = base64.b64decode(known["bytes"]["value_base64"])
    equal("bytes", rows["bytes"][3], f"{raw[:2].hex()} {raw[2:].hex()} binary, {len(raw)} B")
    equal("null and empty", (rows["nothing"][3], rows["empty"][3], known["nothing"]["value"], known["empty"]["value"]), ("null", "empty", None, ""))
    holds("a long value does not say that it is cut", rows["long"][3].endswith(f"truncated: the first 4.0 KiB of {LONG / 1024:.1f} KiB"))
    equal("a long value", rows["long"][3].count("x"), 4096)
    holds("signs that turn text around stay invisible", "\u202e" not in rows["turned"][3] and "\\u202e" in rows["turned"][3] and "\u2407" in rows["turned"][3] and known["turned"]["value"] == OTHER_WAY)
    page.get_by_text("1 header").first.click()
    header = known["plain"]["headers"][0]
    equal("header", page.locator(".headers pre").all_inner_texts()[:2], [header["name"], header["value"]])
    holds("markup of a record became markup", page.locator("#view img, #view script").count() == 0)
    holds("a script of a record ran", page.evaluate("() => window.hacked") is None)
    go(page, f"/topics/odd/records?partition=0&time=not%20a%20time")
    page.get_by_role("alert").get_by_text("is no time").wait_for()
    with browser.excused():
        go(page, "/topics/odd/records?partition=0&offset=99")
        page.get_by_role("alert").get_by_text("OFFSET_OUT_OF_RANGE").wait_for()
    holds("the form is gone after a refusal", page.get_by_role("button", name="Read").is_visible())


def the_record_browser_moves(browser, cluster):
    page = browser.open("/topics/orders/records?partition=3&limit=10")
    end = cluster.ask("topic", "describe", "orders")["partitions"][3]["high_watermark"]
    offsets = lambda: [int(row[0].replace(",", "")) for row in table(page, "records")]
    equal("the newest", offsets(), list(range(end - 10, end)))
    page.get_by_role("link", name="Older").click()
    page.wait_for_function("wanted => document.querySelector('#records tbody th')?.innerText === wanted", arg=str(end - 20))
    equal("older ones", offsets(), list(range(end - 20, end - 10)))
    page.get_by_role("link", name="Oldest").click()
    page.wait_for_function("() => document.querySelector('#records tbody th')?.innerText === '0'")
    equal("the oldest", offsets(), list(range(10)))
    page.get_by_label("Start").select_option("offset")
    page.get_by_label("Offset or time").fill("42")
    page.locator("#limit").select_option("50")
    page.get_by_role("button", name="Read").click()
    page.wait_for_function("() => document.querySelector('#records tbody th')?.innerText === '42'")
    equal("from an offset", offsets(), list(range(42, min(92, end))))
    equal("what was read", [row[3] for row in table(page, "records")], [record["value"] for record in cluster.read("orders", 3, 42, min(50, end - 42))])
    go(page, "/topics/orders/records?partition=3&time=2020-01-01")
    page.wait_for_function("() => document.querySelector('#records tbody th')?.innerText === '0'")
    # More than a page holds is refused by the agent, whatever the page asks.
    equal("the agent's own limit", len(cluster.data("records?topic=payments&partition=0&offset=0&limit=100000")["records"]), 100)


def many_topics_come_in_parts(browser, cluster):
    for i in range(MANY):
        cluster.cli("topic", "create", f"metrics-{i:03}")
    page = browser.open("/topics?filter=metrics")
    page.wait_for_function("wanted => document.querySelector('#topics caption')?.innerText.startsWith(wanted)", arg=f"{MANY} of")
    equal("the first part", [row[0] for row in table(page, "topics")], [f"metrics-{i:03}" for i in range(50)])
    page.get_by_role("link", name="Next").click()
    page.get_by_text(f"51 to {MANY} of {MANY}").wait_for()
    equal("the second part", [row[0] for row in table(page, "topics")], [f"metrics-{i:03}" for i in range(50, MANY)])


def the_keyboard_is_enough(browser, cluster):
    page = browser.open("/")
    press = page.keyboard.press
    press("Tab")
    equal("the first stop", focused(page), "skip")
    holds("the skip link is not seen", page.locator("#skip").bounding_box()["y"] >= 0)
    press("Enter")
    equal("where the skip link leads", (focused(page), page.evaluate("() => location.hash")), ("main", "#/"))
    page.reload()
    settled(page)
    for wanted in ("skip", "StreamHouse", "Overview", "Topics"):
        press("Tab")
        equal("the next stop", focused(page), wanted)
        ring = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        holds(f"{wanted} shows no focus", ring != "none" or wanted == "skip")
    press("Enter")
    page.locator("#topics").wait_for()
    equal("after a link", focused(page), "title")
    press("Tab")
    equal("then", focused(page), "filter")
    page.keyboard.type("odd")
    page.wait_for_function("() => document.querySelectorAll('#topics tbody tr').length === 1")
    equal("typing keeps its place", focused(page), "filter")
    page.wait_for_function("() => document.getElementById('said').innerText === '1 topic'")
    while focused(page) != "odd":
        holds("no way to the topic", focused(page) != "BODY")
        press("Tab")
    # Looks of the page take the focus from nobody.
    looks(page, 2, asks(page))
    equal("after two looks", focused(page), "odd")
    press("Enter")
    page.locator("#partitions").wait_for()
    while focused(page) != "0":
        press("Tab")
    press("Enter")
    page.locator("#records").wait_for()
    while page.evaluate("() => document.activeElement.nodeName") != "SUMMARY":
        press("Tab")
    press("Enter")
    holds("headers do not open by the keyboard", page.locator("#records details[open]").count() == 1)
    while page.evaluate("() => !document.activeElement.classList.contains('table')"):
        press("Shift+Tab")
    equal("a table that may scroll can be reached", page.evaluate("() => document.activeElement.getAttribute('role')"), "region")


def it_looks_only_while_somebody_does(browser, cluster):
    # With a clock of the test's own: the page's time stands still unless it is moved, and what the page does then is what it would do.
    page = browser.open("/topics", clock=True)
    before = asks(page)
    page.clock.run_for(2000)
    looks(page, 1, before)
    page.get_by_role("button", name="Pause").click()
    equal("paused", page.locator("#state").inner_text(), "Paused")
    before = asks(page)
    page.clock.run_for(60_000)
    equal("looks while paused", asks(page), before)
    page.get_by_role("button", name="Resume").click()
    looks(page, 1, before)
    wait_for("the page to be live", lambda: page.locator("#state").inner_text() == "Live")
    page.evaluate(HIDE, True)
    before = asks(page)
    page.clock.run_for(60_000)
    equal("looks while hidden", asks(page), before)
    page.evaluate(HIDE, False)
    looks(page, 1, before)


def it_is_accessible(browser, cluster):
    found = []
    for scheme in ("light", "dark"):
        page = browser.open(scheme=scheme, bypass_csp=True)
        for view in VIEWS:
            go(page, view)
            for details in page.locator("details > summary").all()[:2]:
                details.click()
            found += [f"{view} in {scheme}: {one}" for one in violations(page)]
        page.context.close()
    if found:
        fail("axe finds:\n  " + "\n  ".join(found))


def it_fits_small_screens(browser, cluster):
    # 640 is what is left of 1280 at twice the size.
    for width in (320, 640):
        page = browser.open(width=width, height=640)
        for view in VIEWS:
            go(page, view)
            wide = page.evaluate("() => document.scrollingElement.scrollWidth")
            equal(f"width of {view}", wide, width)
        page.context.close()


def it_outlives_the_agent(browser, cluster):
    page = browser.open("/topics/orders")
    rows = table(page, "partitions")
    with browser.excused():
        cluster.stop("agent")
        page.get_by_role("alert").get_by_text("The agent does not answer").wait_for()
        equal("state", page.locator("#state").inner_text(), "No answer")
        equal("what was shown stays", table(page, "partitions"), rows)
        faults = violations(page)
        cluster.start_agent()
        page.wait_for_function("() => document.getElementById('state').innerText === 'Live'")
    holds("the alert stays", page.locator("#problem").is_hidden())
    page.wait_for_function("() => document.querySelector('#partitions td:nth-of-type(2)').innerText !== '1'")
    holds("the leader's epoch is told anew", table(page, "partitions")[0][2] != rows[0][2])
    if faults:
        fail("axe finds in the alert:\n  " + "\n  ".join(faults))


def people_log_in_where_clients_authenticate(folder, programs):
    """On an agent of its own: a wrong password, the right one, and the end of the session."""
    folder.mkdir()
    cluster = Cluster(folder, programs)
    browser = None
    try:
        cluster.put_user("admin", "secret of admin")
        cluster.start_agent("--authentication", "SCRAM-SHA-512")
        browser = Browser(f"http://{cluster.http}")
        page = browser.chromium.new_context().new_page()
        page.goto(f"{browser.base}/console/#/topics")
        page.wait_for_url("**/console/login**")
        faults = violations(page)
        if faults:
            fail("axe finds in the login page:\n  " + "\n  ".join(faults))

        def log_in(password):
            page.get_by_label("User").fill("admin")
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Log in").click()

        holds("there is an alert before anybody has tried", page.get_by_role("alert").count() == 0)
        log_in("wrong")
        page.get_by_role("alert").get_by_text("Wrong user or password").wait_for()
        log_in("secret of admin")
        page.wait_for_url("**/console/")
        page.wait_for_selector("[data-key='card-Topics']")
        equal("cookies that scripts read", page.evaluate("() => document.cookie"), "")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/console/login")
        page.goto(f"{browser.base}/console/")
        page.wait_for_url("**/console/login")
    finally:
        if browser:
            browser.close()
        cluster.stop_all()


def pictures(browser, folder):
    """What the docs show, taken by the page itself."""
    update = os.environ.get("UPDATE_DOCS") == "1"
    target = IMAGES if update else folder
    target.mkdir(parents=True, exist_ok=True)
    counter = browser.chromium.new_page()
    for name, address, scheme, wanted in PICTURES:
        page = browser.open(address, scheme)
        looks(page, wanted if update else min(wanted, 2), 0)
        picture = target / f"console-{name}.png"
        page.screenshot(path=picture)
        page.context.close()
        holds(f"{picture.name} shows next to nothing", colours(counter, picture) > 100)
        holds(f"{picture.name} has {picture.stat().st_size} bytes", picture.stat().st_size < LARGEST_IMAGE)
        holds(f"{picture.name} is not in docs/images: UPDATE_DOCS=1 hack/check-console.sh", update or (IMAGES / picture.name).exists())


CHECKS = [
    overview_shows_the_cluster, topics_show_what_there_is, one_topic_shows_its_partitions, groups_show_their_lag, records_are_what_was_written,
    the_record_browser_moves, rates_are_those_of_the_counters, the_keyboard_is_enough, it_looks_only_while_somebody_does, many_topics_come_in_parts,
    agents_show_their_leases, it_is_accessible, it_fits_small_screens, it_outlives_the_agent,
]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cluster = Cluster(folder, sys.argv[1])
        try:
            cluster.start_agent()
            empty_states(cluster)
            fill(cluster)
            flow(cluster)
            browser = Browser(f"http://{cluster.http}")
            try:
                pictures(browser, folder)
                for check in CHECKS:
                    check(browser, cluster)
                    print(f"    {check.__name__.replace('_', ' ')}: ok", flush=True)
                if browser.breaches:
                    fail("the browser reports:\n  " + "\n  ".join(sorted(set(browser.breaches))))
            finally:
                browser.close()
        finally:
            cluster.stop_all()
        people_log_in_where_clients_authenticate(folder / "secured", sys.argv[1])
        print("    people log in where clients authenticate: ok", flush=True)
    print(f"    {len(CHECKS) + 2} checks of the console passed")


def empty_states(cluster):
    """A cluster without anything says how to begin."""
    browser = Browser(f"http://{cluster.http}")
    try:
        page = browser.open()
        for view, hint in {"/": "streamhouse topic create", "/topics": "streamhouse topic create", "/groups": "streamhouse consume"}.items():
            go(page, view)
            page.get_by_text(hint).wait_for()
        holds(f"the browser reports {browser.breaches}", not browser.breaches)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
