"""The page in Chromium: make browser-test. It leaves pictures in runs/browser-test."""

import re
import subprocess
import sys

import detector_runs
import numpy as np
import pytest
import runs
import tiny_datasets

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip(
    "selenium.webdriver", reason="requirements-browser.txt is not installed"
)
PICTURES = runs.ROOT / "runs" / "browser-test"
WIDE, PHONE = (1180, 1000), (390, 844)
# Strokes in the drawing field, from its middle.
SEVEN = [(-70, -90), (60, -90), (20, -10), (-20, 100)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The 1998 network after 400 steps of 64 images, and another of 40."""
    found = []
    for steps in (400, 40):
        path = tmp_path_factory.mktemp("runs") / f"lenet5-{steps}-steps"
        fields = {"num_steps": steps, "batch_size": 64, "steps_per_dispatch": 40}
        fields |= {"log__every_steps": 400}
        runs.train_small(
            path, "minibatch", dataset__train_split="train[:25600]", **fields
        )
        found.append(path)
    return found


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument("--use-fake-ui-for-media-stream")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


class Page:
    """The page of some runs in a browser."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address
        self.resize(WIDE)
        self.driver.get(address)
        self.wait(lambda: self.all(".run"))

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def one(self, css):
        return self.driver.find_element("css selector", css)

    def texts(self, css):
        return [element.text for element in self.all(css)]

    def wait(self, condition, seconds=30):
        from selenium.common import exceptions
        from selenium.webdriver.support.wait import WebDriverWait

        changed = exceptions.StaleElementReferenceException
        waiting = WebDriverWait(self.driver, seconds, 0.1, [changed])
        return waiting.until(lambda _: condition())

    def resize(self, size):
        width, height = size
        phone = {"width": width, "height": height, "deviceScaleFactor": 1}
        phone["mobile"] = width < 500
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)

    def picture(self, name, size=WIDE):
        """Takes a picture of the whole page, and checks that nothing sticks out."""
        self.resize(size)
        script = "return document.documentElement.scrollWidth"
        assert self.driver.execute_script(script) <= size[0]
        script = "return document.documentElement.scrollHeight"
        height = self.driver.execute_script(script)
        self.resize((size[0], height))
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(PICTURES / f"{name}.png"))
        self.resize(size)

    def draw(self, points):
        from selenium.webdriver import ActionChains

        field, actions = self.one("#canvas"), ActionChains(self.driver, 20)
        actions.move_to_element_with_offset(field, *points[0]).click_and_hold()
        for point in points[1:]:
            actions.move_to_element_with_offset(field, *point)
        actions.release()
        self.answered(actions.perform)

    def answered(self, act):
        """Calls what gives the page an image, and waits for the answer."""
        script = "document.getElementById('status').textContent = ''"
        self.driver.execute_script(script)
        act()
        self.wait(lambda: self.one("#status").text.startswith("answered in"))

    def open(self, title):
        for part in self.all("details"):
            summary = part.find_element("css selector", "summary")
            if summary.text == title and part.get_attribute("open") is None:
                summary.click()

    def give(self, path):
        self.one("#file").send_keys(str(path))

    def drop(self, name, text):
        """Drops a file of some text on the field for it."""
        self.driver.execute_script(
            """const data = new DataTransfer();
            data.items.add(new File([arguments[1]], arguments[0], {type: "image/png"}));
            document.getElementById("drop").dispatchEvent(
              new DragEvent("drop", {dataTransfer: data, bubbles: true}));""",
            *(name, text),
        )

    def check(self):
        """Nothing came from elsewhere, and the browser reports no error of ours."""
        script = "return performance.getEntriesByType('resource').map(e => e.name)"
        for name in self.driver.execute_script(script):
            assert name.startswith((self.address, "data:", "blob:")), name
        log = [line["message"] for line in self.driver.get_log("browser")]
        assert not [line for line in log if "400 (Bad Request)" not in line]


@pytest.fixture
def page(browser, request):
    """A function that serves the page of some runs and opens it."""

    def start(*paths):
        workdirs = ",".join(map(str, paths))
        command = [sys.executable, "main.py", "--mode=demo", f"--workdir={workdirs}"]
        server = subprocess.Popen(
            [*command, "--port=0", "--database=500"],
            cwd=runs.ROOT,
            env=runs.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

        def end():
            with server:  # waits for it
                server.terminate()

        request.addfinalizer(end)
        said = server.stdout.readline()
        return Page(browser, re.search(r"http://[\d.:]+", said)[0])

    return start


def test_a_digit_is_drawn_and_the_network_is_looked_into(page, trained, tmp_path):
    page = page(trained[0])
    page.draw(SEVEN)
    (best, *others) = page.texts(".best li span:first-child")
    assert best == "7" and len(others) == 4
    nearest = page.one(".bitmaps .nearest").text
    assert nearest.startswith("7: ")

    page.open("Layers and their maps")
    page.wait(lambda: page.texts(".maps figcaption") == ["C1: 6 maps of 28x28"])
    for name, text in (("F6", "F6: 84 maps of 1x1"), ("C3", "C3: 16 maps of 10x10")):
        (button,) = [b for b in page.all("td button") if b.text == name]
        button.send_keys(webdriver.Keys.ENTER)  # by the keyboard
        page.wait(lambda text=text: page.texts(".maps figcaption") == [text])
        assert button.get_attribute("aria-pressed") == "true"
    for title in ("Grad-CAM: where it looks", "Nearest training images"):
        page.open(title)
    page.wait(lambda: len(page.all(".near figure")) == 8)
    page.wait(lambda: "speaks for 7" in page.one("#runs").text)
    page.picture("drawn")
    page.picture("drawn-phone", PHONE)

    page.drop("damaged.png", "no image")
    page.wait(lambda: page.one(".run .problem").is_displayed())
    assert page.one(".run .problem").text.startswith("this file is no readable PNG")
    assert not page.all(".best, .maps, .near, .panel figure")
    page.wait(lambda: page.one("#status").text == "")
    damaged = tmp_path / "half.png"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    damaged.write_bytes(tiny_datasets.png(pixels)[:300])
    page.give(damaged)
    page.wait(lambda: "is damaged" in page.one(".run .problem").text)
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2**24 + 1))
    page.give(large)
    page.wait(lambda: page.one("#status").text == "the file is larger than 16 MiB")
    page.draw(SEVEN)
    assert not page.one(".run .problem").is_displayed()
    page.wait(lambda: len(page.all(".near figure")) == 8)  # the panels come back
    page.check()


def test_two_runs_answer_for_one_image(page, trained):
    page = page(*trained)
    page.answered(page.one("#sample").click)
    assert len(page.all(".best li")) == 10
    assert re.fullmatch(
        r"test image [\d,]+ of 203: truly \d", page.one("#given-text").text
    )
    steps = [re.search(r"step (\d+)", text)[1] for text in page.texts(".about")]
    assert steps == ["400", "40"]
    for title in ("Filters of the first layer", "Occlusion: what it needs"):
        page.open(title)
    page.wait(lambda: len(page.all(".panel figure")) == 4)
    page.picture("two-runs")
    page.check()


def test_a_digit_is_drawn_by_the_keyboard(page, trained):
    """A stroke downwards is a one; every control has a name."""
    page = page(trained[0])
    keys, field = webdriver.Keys, page.one("#canvas")
    stroke = *[keys.ARROW_UP] * 14, " ", *[keys.ARROW_DOWN] * 28, " "
    page.answered(lambda: field.send_keys(*stroke))
    assert page.texts(".best li span:first-child")[0] == "1"
    for control in page.all("button, input, canvas, summary, video, #plot"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    for image in page.all("img"):
        assert image.get_attribute("alt")
    page.check()


def test_all_networks_and_claims(page, trained):
    page = page(trained[1])
    (link,) = [a for a in page.all("nav a") if a.text == "All networks"]
    link.click()
    page.wait(lambda: page.texts("#count") == ["110 of 110 networks"])
    from selenium.webdriver import ActionChains

    circle = page.one("circle[data-name=resnet50]")
    ActionChains(page.driver).move_to_element(circle).perform()
    hint = page.wait(lambda: page.one("#hint").text)
    assert "after: ResNet (He, Zhang, Ren, Sun, 2015)" in hint
    assert "25,557,032 parameters" in hint and "24.70 % top-1" in hint
    circle = page.one("circle[data-name=nin_imagenet]")
    ActionChains(page.driver).move_to_element(circle).perform()
    page.wait(lambda: "40.64? % top-1" in page.one("#hint").text)
    page.picture("networks")
    page.resize(PHONE)
    page.driver.refresh()
    page.wait(lambda: page.texts("#count") == ["110 of 110 networks"])
    page.picture("networks-phone", PHONE)
    page.resize(WIDE)
    page.one("#filter").send_keys("resnet cifar")
    page.wait(lambda: not page.one("#count").text.startswith("110"))
    (head,) = [b for b in page.all("#heads button") if b.text == "top-1"]
    for sign in (1, -1):
        head.click()
        shown = page.texts("#table td:nth-child(8)")
        errors = [float(text.rstrip("?")) for text in shown if text]
        assert errors == sorted(errors, reverse=sign < 0) and len(errors) > 5
    (link,) = [a for a in page.all("nav a") if a.text == "Claims"]
    link.click()
    page.wait(lambda: len(page.all("#claim-list article")) == 27)
    figure = page.one("#claim-list img")
    script = "return arguments[0].naturalWidth"
    page.wait(lambda: page.driver.execute_script(script, figure) > 100)
    page.picture("claims-phone", PHONE)
    page.check()


def test_a_detectors_boxes_and_the_camera(page, tmp_path):
    page = page(detector_runs.make(tmp_path / "boxes", channels=3))
    page.one("#camera").click()
    page.wait(lambda: page.one("#viewfinder").is_displayed())
    width = "return document.getElementById('video').videoWidth"
    page.wait(lambda: page.driver.execute_script(width) > 0)
    page.answered(page.one("#shoot").click)
    counts = []
    for threshold in (0, 100):
        page.driver.execute_script(
            """const slider = document.querySelector(".controls input[type=range]");
            slider.value = arguments[0] / 100;
            slider.dispatchEvent(new Event("input"));""",
            threshold,
        )
        counts.append(len(page.all(".overlay rect")))
    assert counts[0] > counts[1] == 0
    for kind, number in (("proposals", 0), ("anchors", 6)):
        (radio,) = [r for r in page.all("fieldset label") if r.text == kind]
        radio.click()
        assert len(page.all(".overlay rect")) == number
    page.picture("detector")
    page.check()
