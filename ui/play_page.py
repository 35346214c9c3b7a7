"""The Play page: a game of guesses on the map, beside those of models."""

import html
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.photos import file_below, open_photo, read_source
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import middle_longitude
from geoclip_core.errors import DatasetError, PhotoError
from ui.dataset.explore import load
from ui.dataset.make import first_steps, progress_strip
from ui.geometry import Coordinate
from ui.maps import OfflineMap, answer_map, show_map
from ui.model_comparison import LETTERS, model_colours, spots
from ui.models import available_models, progress_bar, served_model
from ui.page import (
    choose,
    datasets_folder,
    download,
    is_public,
    kept,
    open_page,
    show_chart,
    workbench,
)
from ui.photos import TrayPhoto, photo_input, photo_tray, tray_photo
from ui.play import (
    ROUNDS,
    YOU,
    Game,
    Region,
    Round,
    draw_rows,
    games_json,
    guess_table,
    place_keys,
    places_at,
    players_of,
    region_view,
    regions,
    rows_in,
    standings,
    total,
)
from ui.questions import place_field
from ui.theme import Palette, kilometres, markdown_text, palette
from ui.training.new import choose_dataset

DATASET, OWN = "A dataset", "My own photos"

_MODELS = "play models"
_PICTURE = (1600, 1200)
"""Largest width and height in pixels of the photo of a round."""
_LISTED = 10
"""Most names of photos without a position."""
_HEIGHT = 460
_CHART_HEIGHT = 260


@dataclass(frozen=True)
class Pool:
    """Photos to draw rounds from."""

    name: str
    root: Path | None
    """Folder of the dataset; None for the visitor's own photos."""
    synthetic: bool
    ids: Sequence[str]
    """Path in the dataset, or digest, of each of the n photos."""
    coordinates: NDArray[np.float64]
    keys: pd.DataFrame
    """Columns continent, country, state."""
    drives: Sequence[object] | None
    rows: NDArray[np.int64]
    """Positions of the photos that may be drawn."""


@dataclass
class Session:
    """The games of a session."""

    games: list[Game] = field(default_factory=list)
    playing: bool = False
    """Whether the last game is on the page, to be played or with its result."""
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Folder of a dataset ("" for own photos) -> the photos of earlier rounds."""
    positions: dict[str, Coordinate | str | None] = field(default_factory=dict)
    """Digest of an own photo -> its position, why it cannot be read, or None without a position."""
    picture: tuple[str, TrayPhoto, bytes] | None = None
    """The photo of the current round, and what is shown of it."""

    def close(self) -> None:
        """Leave the game."""
        self.playing, self.picture = False, None
        self.games = [game for game in self.games if game.played]

    def end(self) -> None:
        """End the game after the rounds that were played."""
        game = self.games[-1]
        game.rounds = game.played
        game.at = len(game.rounds)
        if not game.rounds:
            self.close()


def play_page() -> None:
    """Draw the page."""
    open_page(
        "Play",
        "Guess where the photo was taken",
        f"{ROUNDS} photos. Put a pin on the map for each, and see how far off you and the models "
        "are.",
    )
    session = kept("play", Session)
    with st.sidebar:
        root = choose_dataset()
        models = _opponents()
    game = session.games[-1] if session.playing else None
    if game is None:
        _setup(session, root, [_player(model) for model in models])
    elif game.current is None:
        _results(session, game, models)
    elif game.current.confirmed:
        _answer(session, game, game.current, models)
    else:
        _question(session, game, game.current)


def _opponents() -> list[str]:
    """Draw a field for the models to play against; return their names."""
    options = available_models()
    if _MODELS not in st.session_state:
        model = st.session_state.get("model")
        st.session_state[_MODELS] = [model if model in options else options[0]]
    known = [name for name in st.session_state[_MODELS] if name in options]
    if known != st.session_state[_MODELS]:
        st.session_state[_MODELS] = known
    return st.multiselect(
        "Play against",
        options,
        key=_MODELS,
        format_func=_player,
        max_selections=len(LETTERS),
        persist_state="session",
        placeholder="No model",
        help="They guess after you. Models that were trained on these photos know them.",
    )


def _player(model: str) -> str:
    """Return a model's name without the folders of a run."""
    return Path(model).name or model


# Before a game ------------------------------------------------------------------------------------


def _setup(session: Session, root: Path | None, players: Sequence[str]) -> None:
    bench = workbench()
    region = None
    with bench.controls:
        source = st.segmented_control(
            "Photos from",
            [DATASET, OWN],
            default=DATASET,
            required=True,
            key="play photos",
            persist_state="session",
        )
        pool = _own_pool(session) if source == OWN else _dataset_pool(root)
        if pool is not None:
            region = _choose_region(pool)
            count = min(ROUNDS, region.photos)
            if st.button(
                f"Play {count} round{'' if count == 1 else 's'}",
                type="primary",
                icon=":material/play_arrow:",
                key="play",
            ):
                _start(session, pool, region)
    with bench.map_side:
        show_map(OfflineMap(*region_view(region)) if region else OfflineMap())
    if session.games:
        with bench.cards:
            st.subheader("Your games in this session", anchor=False)
            _all_games(session.games, players)


def _choose_region(pool: Pool) -> Region:
    offered = {(one.level, one.key): one for one in regions(pool.keys.iloc[pool.rows])}
    chosen = choose(
        "Where",
        list(offered),
        "play region",
        format_func=lambda key: offered[key].label,
        help="The map starts at this region. A smaller one is easier.",
    )
    return offered[chosen or next(iter(offered))]


def _dataset_pool(root: Path | None) -> Pool | None:
    if root is None:
        if is_public():
            st.info("There is no dataset to play with. Play with your own photos.")
            return None
        running = progress_strip(datasets_folder())
        if not any(job.command == "demo-data" for job in running):
            first_steps(datasets_folder())
        return None
    try:
        dataset = load(root)
    except DatasetError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        return None
    table = dataset.table
    rows = np.arange(len(table))
    held_out = np.flatnonzero(table["split"] == "test")
    if 0 < len(held_out) < len(rows) and st.toggle(
        "Only photos kept for testing",
        value=len(held_out) >= ROUNDS,
        key="play held out",
        persist_state="session",
        help="Models that were trained on this dataset know the others.",
    ):
        rows = held_out
    return Pool(
        name=dataset.name,
        root=root,
        synthetic=dataset.synthetic,
        ids=table["path"].tolist(),
        coordinates=dataset.coordinates,
        keys=_keys(dataset, dataset.fingerprint),
        drives=table["sequence"].tolist(),
        rows=rows,
    )


@st.cache_resource(max_entries=4, show_spinner="Looking up the places of the photos …")
def _keys(_dataset: PhotoDataset, fingerprint: str) -> pd.DataFrame:
    return place_keys(_dataset)


def _own_pool(session: Session) -> Pool | None:
    photo_input()
    found: list[tuple[TrayPhoto, Coordinate]] = []
    without: list[str] = []
    for photo in photo_tray():
        if photo.digest not in session.positions:
            session.positions[photo.digest] = _position(photo)
        position = session.positions[photo.digest]
        if isinstance(position, str):
            st.warning(markdown_text(position), icon=":material/broken_image:")
        elif position is None:
            without.append(photo.name)
        else:
            found.append((photo, position))
    if without:
        more = f" and {len(without) - _LISTED} more" if len(without) > _LISTED else ""
        st.warning(
            f"No position in the metadata of {markdown_text(', '.join(without[:_LISTED]))}{more}: "
            "they cannot be played.",
            icon=":material/location_off:",
        )
    if not found:
        st.info("Drop photos that have a GPS position. Each of them can become a round.")
        return None
    coordinates = np.array([position for _, position in found])
    return Pool(
        name="my photos",
        root=None,
        synthetic=False,
        ids=[photo.digest for photo, _ in found],
        coordinates=coordinates,
        keys=places_at(coordinates),
        drives=None,
        rows=np.arange(len(found)),
    )


def _position(photo: TrayPhoto) -> Coordinate | str | None:
    """Return the position of a photo, why it cannot be read, or None if it has no position."""
    try:
        return open_photo(photo.content, name=photo.name, draft_size=64).position
    except PhotoError as error:
        return str(error)


def _start(session: Session, pool: Pool, region: Region) -> None:
    """Draw the rounds of a game and rerun the page, or say why there are none."""
    seen = session.seen.setdefault(str(pool.root or ""), set())
    rows = pool.rows[rows_in(pool.keys.iloc[pool.rows], region)]
    names: dict[int, str] = {}

    def usable(row: int) -> bool:
        opened = _opened(pool.root, pool.ids[row])
        if opened is not None:
            names[row] = opened[0].name
        return opened is not None

    with st.spinner("Drawing photos …"):
        drawn = draw_rows(
            rows,
            session.seed,
            usable,
            seen=frozenset(row for row in rows.tolist() if pool.ids[row] in seen),
            drives=pool.drives,
        )
    if not drawn:
        where = markdown_text(str(pool.root))
        st.error(
            f"None of these {len(rows):,} photos can be shown: they are not in {where}, or are "
            "damaged. Choose another dataset or region."
            if pool.root
            else "None of these photos can be shown.",
            icon=":material/broken_image:",
        )
        return
    session.seed += 1
    seen.update(pool.ids[row] for row in drawn)
    number = session.games[-1].number + 1 if session.games else 1
    rounds = [
        Round(pool.ids[row], names[row], (float(lat), float(lon)))
        for row, (lat, lon) in zip(drawn, pool.coordinates[drawn], strict=True)
    ]
    session.games.append(Game(number, pool.name, region, rounds, pool.root, pool.synthetic))
    session.playing, session.picture = True, None
    st.rerun()


def _opened(root: Path | None, photo: str) -> tuple[TrayPhoto, bytes] | None:
    """Return a photo, and a JPEG of it without metadata; None if it cannot be shown."""
    try:
        found: TrayPhoto | None = None
        if root is None:
            found = next((one for one in photo_tray() if one.digest == photo), None)
        elif (file := file_below(root, photo)) is not None:
            content, name = read_source(file, None)
            found = tray_photo(name, content)
        if found is None:
            return None
        image = open_photo(found.content, draft_size=_PICTURE).image
    except PhotoError:
        return None
    image.thumbnail(_PICTURE)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return found, stream.getvalue()


# During a game ------------------------------------------------------------------------------------


def _photo(session: Session, game: Game, one: Round) -> tuple[TrayPhoto, bytes] | None:
    """Return the photo of a round, kept for the reruns of the page; None if it is gone."""
    if game.root is None and all(photo.digest != one.photo for photo in photo_tray()):
        session.picture = None  # "Clear all" was pressed on another page
        return None
    if session.picture is None or session.picture[0] != one.photo:
        opened = _opened(game.root, one.photo)
        session.picture = None if opened is None else (one.photo, *opened)
    return None if session.picture is None else session.picture[1:]


def _heading(game: Game) -> None:
    number, played = game.at + 1, game.played
    points = f" · {total(played, YOU):,.0f} points so far" if played else ""
    st.markdown(f"**Round {number} of {len(game.rounds)}**{points}")


def _question(session: Session, game: Game, one: Round) -> None:
    """Draw a photo and the map that asks for its place."""
    photo = _photo(session, game, one)
    bench = workbench()
    if photo is None:
        with bench.controls:
            _heading(game)
            _gone(session, game)
        with bench.map_side:
            show_map(OfflineMap(*region_view(game.region)))
        return
    with bench.controls:
        _heading(game)
        st.image(photo[1], width="stretch", alt="The photo of this round")
        drawn = " Drawn scenes: signs and landmarks are invented." if game.synthetic else ""
        st.caption(f"Region: {markdown_text(game.region.name)}.{drawn}")
    key = f"{game.number} {game.at} {one.photo}"
    with bench.map_side:
        world = st.container()
        with st.container(key="play-answer"):
            place = place_field(
                "Or type a place",
                f"play place {key}",
                "Town, county, state or country; or latitude, longitude. The pin moves there.",
            )
            if place is not None:
                one.type(place)
            _answer_bar(session, one)
        with world:
            answer_map(
                OfflineMap(*region_view(game.region)),
                f"play map {key}",
                one.guess,
                one.typed,
                lambda point: _click(one, point, f"play place {key}"),
                _HEIGHT,
            )


def _click(one: Round, point: Coordinate, typed: str) -> None:
    one.click(point)
    st.session_state[typed] = ""


def _answer_bar(session: Session, one: Round) -> None:
    if one.guess is None:
        st.caption(
            ":material/touch_app: Click or tap the map. With the keyboard: arrow keys move the "
            "map, + and − zoom, Enter puts the pin in the middle."
        )
    else:
        latitude, longitude = one.guess
        label = Gazetteer.load().places([one.guess])[0].label
        st.caption(
            f":material/push_pin: Your pin: {latitude:.4f}, {longitude:.4f} · "
            f"{markdown_text(label)}"
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Guess",
            type="primary",
            icon=":material/check:",
            key="play guess",
            disabled=one.guess is None,
            on_click=_confirm,
            args=(one,),
        )
        st.button("End this game", type="tertiary", key="play end", on_click=session.end)


def _confirm(one: Round) -> None:
    one.confirmed = True


def _gone(session: Session, game: Game) -> None:
    where = (
        "is no longer among your photos"
        if game.root is None
        else f"is no longer in {markdown_text(str(game.root))}, or is damaged"
    )
    st.warning(f"The photo of this round {where}.", icon=":material/broken_image:")
    with st.container(horizontal=True):
        st.button("Leave it out", type="primary", key="play leave out", on_click=game.leave_out)
        st.button("End this game", type="tertiary", key="play end", on_click=session.end)


def _answer(session: Session, game: Game, one: Round, models: Sequence[str]) -> None:
    """Draw the truth of a round, and the guesses of the models once they are there."""
    players = [_player(model) for model in models]
    photo = _photo(session, game, one)
    bench = workbench()
    with bench.controls:
        _heading(game)
        away = kilometres(one.distance_km(YOU) or 0.0)
        st.markdown(f"#### {away} away: {one.score(YOU) or 0.0:,.0f} of 5,000 points")
        label = Gazetteer.load().places([one.truth])[0].label
        st.markdown(
            f":green[:material/location_on:] **{markdown_text(label)}**  \n"
            f"{one.truth[0]:.4f}, {one.truth[1]:.4f}"
        )
        if photo is not None:
            st.image(photo[1], width="stretch", alt=f"The photo {one.name}")
        st.caption(markdown_text(one.name))
    with bench.map_side:
        show_map(_round_map(one, players))
        last = game.at + 1 == len(game.rounds)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "See the result" if last else "Next round",
                type="primary",
                icon=":material/arrow_forward:",
                key="play next",
                on_click=_next,
                args=(game,),
            )
            if not last:
                st.button("End this game", type="tertiary", key="play end", on_click=session.end)
    with bench.cards:
        st.markdown(_round_table(game, players))
        _fill(session, game, [one], models)


def _next(game: Game) -> None:
    game.at += 1


def _fill(session: Session, game: Game, rounds: Sequence[Round], models: Sequence[str]) -> None:
    """Let the models guess where they have not yet, with progress, and rerun the page.

    Everything else of the page is drawn before, so that it can be used meanwhile: a click takes
    effect after the guess that is being made, which is kept.
    """
    missing = [
        (one, model)
        for one in rounds
        for model in models
        if _player(model) not in one.answers and _player(model) not in one.failures
    ]
    if not missing:
        for one in rounds:
            for player in map(_player, models):
                if player in one.failures:
                    text = f"{player} has no guess: {one.failures[player]}"
                    st.caption(f":material/error: {markdown_text(text)}")
        return
    report = progress_bar("Made", "guesses of the models")
    done = 0
    for number, (one, model) in enumerate(missing, 1):
        served = served_model(model)  # shows why a model cannot be loaded
        if served is not None:
            opened = _photo(session, game, one)
            try:
                if opened is None:
                    raise PhotoError("the photo is gone")
                found = served.locate([opened[0]])
                one.answers[_player(model)] = found.latitude, found.longitude
            except PhotoError as error:
                one.failures[_player(model)] = str(error)
            done += 1
        report(number, len(missing))
    if done:
        st.rerun()


# After a round, and after a game ------------------------------------------------------------------


def _colours(players: Sequence[str], colours: Palette) -> dict[str, str]:
    """Return the colour of each player: you and the models."""
    return {YOU: colours.candidate, **dict(zip(players, model_colours(colours), strict=False))}


def _round_map(one: Round, players: Sequence[str]) -> OfflineMap:
    """Return a map with the truth of a round and the guess of every player."""
    guesses = {name: guess for name in (YOU, *players) if (guess := one.guess_of(name)) is not None}
    points = list(guesses.values())
    focus = [one.truth, *points]
    world = OfflineMap(focus, middle_longitude([longitude for _, longitude in focus]))
    colours = _colours(players, world.colours)
    letters = {YOU: YOU, **dict(zip(players, LETTERS, strict=False))}
    for name, guess in guesses.items():
        world.legend[name if name == YOU else f"{letters[name]}: {name}"] = colours[name]
        world.add_line(guess, one.truth, f"{name}: {kilometres(one.distance_km(name) or 0.0)}")
    world.add_truth(one.truth, f"Where it was taken\n{one.name}")
    names = list(guesses)
    for spot in spots(points):
        text = ", ".join(letters[names[i]] for i in spot)
        label = "\n".join(
            f"{names[i]}: {kilometres(one.distance_km(names[i]) or 0.0)} away" for i in spot
        )
        world.add_pin(points[spot[0]], text, colours[names[spot[0]]], label)
    return world


def _game_map(game: Game) -> OfflineMap:
    """Return a map with the truth of every round of a game and your guess, numbered."""
    rounds = [(number, one) for number, one in enumerate(game.played, 1) if one.guess is not None]
    focus = [point for _, one in rounds for point in (one.truth, one.guess) if point is not None]
    world = OfflineMap(focus, middle_longitude([longitude for _, longitude in focus]))
    world.legend[YOU] = world.colours.candidate
    for number, one in rounds:
        if one.guess is None:
            continue
        label = f"Round {number}: {kilometres(one.distance_km(YOU) or 0.0)} away"
        world.add_line(one.guess, one.truth, label)
        world.add_truth(one.truth, f"Round {number}\n{one.name}")
        world.add_pin(one.guess, str(number), world.colours.candidate, label)
    return world


def _round_table(game: Game, players: Sequence[str]) -> str:
    """Return a Markdown table of the current round: distance and points of every player."""
    one = game.current
    lines = [("Player", "Away", "Points", "So far"), ("---", "---:", "---:", "---:")]
    for letter, name in zip(("", *LETTERS), (YOU, *players), strict=False):
        distance = None if one is None else one.distance_km(name)
        if one is None or distance is None:
            continue
        shown = markdown_text(name) if name == YOU else f"**{letter}** {markdown_text(name)}"
        far = kilometres(distance)
        points = f"{one.score(name) or 0.0:,.0f}"
        lines.append((shown, far, points, f"{total(game.played, name):,.0f}"))
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _results(session: Session, game: Game, models: Sequence[str]) -> None:
    """Draw the result of a game, and of all games of the session."""
    players = [_player(model) for model in models]
    bench = workbench()
    with bench.controls:
        if game.played:
            most = 5000 * len(game.played)
            st.markdown(f"#### {total(game.played, YOU):,.0f} of {most:,} points")
            st.caption(f"{markdown_text(game.photos)} · {markdown_text(game.region.name)}")
            st.markdown(_game_table(game, players))
            _fill(session, game, game.played, models)
        else:
            st.warning("No photo of this game could be shown.", icon=":material/broken_image:")
        with st.container(horizontal=True):
            st.button(
                "New game",
                type="primary",
                icon=":material/replay:",
                key="play new",
                on_click=session.close,
            )
    with bench.map_side:
        show_map(_game_map(game))
    games = [one for one in session.games if one.played]
    if games:
        with bench.cards:
            _all_games(games, players)


def _game_table(game: Game, players: Sequence[str]) -> str:
    """Return a Markdown table of a game: the points of every player in each round, and in total."""
    letters = {YOU: YOU, **dict(zip(players, LETTERS, strict=False))}
    shown = [name for name in letters if any(one.guess_of(name) for one in game.played)]
    lines = [["Round", *(letters[name] for name in shown)], ["---", *["---:"] * len(shown)]]
    for number, one in enumerate(game.played, 1):
        scores = [one.score(name) for name in shown]
        cells = ["–" if score is None else f"{score:,.0f}" for score in scores]
        lines.append([str(number), *cells])
    totals = [f"**{total(game.played, name):,.0f}**" for name in shown]
    names = [f"**{letters[name]}** {markdown_text(name)}" for name in shown if name != YOU]
    return "\n\n".join([_table([*lines, ["**All**", *totals]]), " · ".join(names)])


def _all_games(games: Sequence[Game], players: Sequence[str]) -> None:
    """Draw standings, chart and downloads of games with at least one round.

    The chosen players come first, in the colours of the map.
    """
    guessed = players_of(games)[1:]
    models = list(dict.fromkeys([*(one for one in players if one in guessed), *guessed]))
    lines = [
        ("Player", "Rounds", "Points", "You, same rounds"),
        ("---", *["---:"] * 3),
    ]
    for one in standings(games, models):
        lines.append(
            (
                markdown_text(one.player),
                f"{one.rounds}",
                f"{one.total:,.0f}",
                f"{one.yours:,.0f}",
            )
        )
    if len(games) > 1:
        st.markdown(f"**All {len(games)} games of this session**")
    st.markdown(_table(lines))
    show_chart(_chart(games, models), "play chart", height=_CHART_HEIGHT)
    with st.container(horizontal=True):
        download("Guesses (CSV)", lambda: guess_table(games), "guesses.csv")
        st.download_button(
            "Games (JSON)",
            lambda: games_json(games).encode("utf-8"),
            file_name="games.json",
            mime="application/json",
            key="download games.json",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
        )


def _chart(games: Sequence[Game], models: Sequence[str]) -> go.Figure:
    """Return bars of points: by round of one game, or per round in each of several games."""
    colours = _colours(models, palette())
    figure = go.Figure()
    for name in (YOU, *models):
        if len(games) == 1:
            labels = [f"Round {number}" for number in range(1, len(games[0].played) + 1)]
            values = [one.score(name) for one in games[0].played]
        else:
            labels = [f"Game {game.number}" for game in games]
            own = [[one for one in game.played if one.guess_of(name)] for game in games]
            values = [total(rounds, name) / len(rounds) if rounds else None for rounds in own]
        figure.add_bar(
            x=labels,
            y=values,
            name=html.escape(name),
            marker={"color": colours.get(name, palette().muted)},
            hovertemplate="%{y:,.0f} points<extra>%{fullData.name}</extra>",
        )
    title = "Points" if len(games) == 1 else "Points per round"
    figure.update_yaxes(title=title, range=[0, 5000], tickformat=",d")
    figure.update_xaxes(type="category", title=None)
    figure.update_layout(
        barmode="group",
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    return figure
