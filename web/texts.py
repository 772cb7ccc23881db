"""Every text of the page and of the API's errors, in one place."""

from latentsync.weights import FETCH_INFERENCE

TITLE = "LatentSync"
SUBTITLE = "Give a video of somebody speaking and another sound track: the lips will speak the new sound."
DEMO_NOTE = (
    "These are the small **demo models**. They know drawn heads only: on real people the lips will not look right. For"
    f" the official weights run `{FETCH_INFERENCE}` in the project's folder, then reload this page."
)
MODEL_NOTE = "Models: **{title}**, faces of {resolution} px."

VIDEO, AUDIO = "Video", "Sound"
EXAMPLE_BUTTON = "Example: {title}"
PRESET, PRESET_INFO = "Quality", "More steps take longer and look cleaner."
PRESETS = {"turbo": "Turbo", "fast": "Fast", "balanced": "Balanced", "quality": "Best quality"}
CUSTOM_PRESET = "custom"
CUSTOM_TITLE = "Custom"

FACE_SECTION = "Whose lips"
FACE = "Face"
FACE_INFO = (
    "Choose, or click on a face in the picture below. The keyboard's way: type x,y@seconds or a person's number."
)
FACE_CHOICES = (("The largest face", "largest"), ("The face nearest the middle", "center"))
FRAME_SEC, FRAME_SEC_INFO = "Second of the video", "Which picture is shown below."
FRAME = "Click on the face whose lips shall change:"
FRAME_ALT = "A picture of your video; click on the face whose lips shall change"

ADVANCED_SECTION = "Advanced settings"
STEPS, STEPS_INFO = "Inference steps", "Sampling steps of every window."
GUIDANCE, GUIDANCE_INFO = "Guidance scale", "How strongly the sound speaks; 1 is fastest."
SEED, SEED_INFO = "Seed", "Same seed, same result; -1 for another one every time."
LENGTH = "If the sound is longer than the video"
LENGTH_CHOICES = (
    ("Play the video back and forth", "bounce"),
    ("Repeat the video", "loop"),
    ("Hold its last picture", "hold"),
)
REST = "If the video is longer than the sound"
REST_CHOICES = (("Cut the rest", "cut"), ("Keep the rest as it is", "keep"))
MISSING = "Frames in which no face is found"
MISSING_CHOICES = (("Pass them through as they are", "passthrough"), ("Stop with an error", "error"))

MODEL_SECTION = "Models"
MODEL = "Model"
MODEL_TITLES = {"demo": "Demo models (drawn heads only)", "official": "Official weights", "own": "Own model"}
MODEL_TABLE_HEAD = ("File", "For", "Size", "State", "Licence")
MODEL_STATES = {"there": "installed", "missing": "missing", "damaged": "damaged", "other release": "other release"}
MODEL_COMMAND = "Fetch what is missing with:"
MODEL_ALL_THERE = "Everything for the official weights is installed."

CHECK, PREVIEW, RUN, CANCEL = "Check first", "Preview 3 seconds", "Run", "Cancel"
RESULT_SECTION = "Result"
PLAYER_ORIGINAL, PLAYER_RESULT = "Original", "Result"
PLAYER_LABEL = "Original and result, played together"
PLAYER_PLAY, PLAYER_PAUSE, PLAYER_SEEK = "Play", "Pause", "Position"
PLAYER_SOUND_RESULT, PLAYER_SOUND_ORIGINAL, PLAYER_LOOP = "Sound: new", "Sound: old", "Repeat"
PLAYER_UNPLAYABLE = "This browser cannot play the format of this file; download it instead."
DOWNLOAD_VIDEO, DOWNLOAD_REPORT = "Download the video", "Download the report"
SHEET = "What was found: faces in green frames will be changed."
SHEET_ALT = "Pictures of the video with the faces that were found; the summary above tells the same in words"
REPORT_SECTION = "Report"
NO_RESULT = "Nothing yet. Give a video and a sound, then press Check first, Preview 3 seconds or Run."
HISTORY_SECTION = "This session"
HISTORY, HISTORY_INFO = "Earlier jobs", "Choose one to see it again. All are deleted {hours} after they ended."
DELETE = "Delete this job's files"
KINDS = {"preflight": "Check", "preview": "Preview", "run": "Run"}
STATES = {
    "waiting": "waiting",
    "running": "at work",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}

WAITING = "Waiting: {place} before this one."
JOBS_BEFORE = ("no job", "one job", "{count} jobs")
LOAD_STAGE = "Load the models"
WRITE_STAGE = "Write the file"
BEGIN_STAGE = "Open the files"
STAGES = {"Find the face": "find the face", "Generate lips": "generate lips"}
STEP = "Step {number} of 2: {stage}"
FRAMES_DONE = "{done} of {total} frames"
LEFT = "about {time} left in this step"
CANCELLING = "Cancelling, this takes until the present window is done"
CANCELLED = "Cancelled. Your settings are still here: change them and press Run."
CHECKED = "Check: {summary}"
FINISHED = "Done: {summary}"
DELETED = "The job's files are deleted."

REPORT_ROWS = {
    "length": "Length",
    "frames": "Frames",
    "passed": "Passed through",
    "settings": "Settings",
    "timings": "Seconds spent",
    "model": "Computed on",
}
NOTHING_PASSED = "none"
SETTINGS_LINE = "{steps} steps, guidance {guidance_scale:g}, seed {seed}, face: {face}"
TIMINGS = {
    "detect": "finding faces",
    "read": "reading",
    "align": "aligning",
    "listen": "listening",
    "encode": "encoding faces",
    "sample": "sampling",
    "decode": "decoding faces",
    "match colour": "matching colours",
    "paste": "pasting",
    "write": "writing",
    "join": "joining",
}

MEDIA_FACTS = "{width} x {height}, {fps:g} frames a second, {time}"
SOUND_FACTS = "{time} of sound"

NEED_BOTH = "Give both a video and a sound: drop the missing one into its field, or press the example's button."
FILE_GONE = "The file {name} is not on the server any more: upload it again."
EMPTY_FILE = "{name} is empty (0 bytes): choose another file, or export it again."
TOO_BIG = "{name} has {size}, and at most {limit} are taken: cut the file or encode it smaller."
SOUND_TOO_LONG = "{name} lasts {time}, and at most {limit} are taken: cut it, or use inference.sh, which has no limit."
VIDEO_TOO_LONG = "{name} lasts {time}, and videos of at most {limit} are taken: cut it, or use inference.sh."
FRAME_TOO_LARGE = "{name} has {width} x {height} pixels, more than is taken: scale it down, or use inference.sh."
NO_SOUND = "{name} has no sound: choose a file with a sound track."
TOO_MANY = "{count} jobs are waiting already: try again in some minutes."
TOO_MANY_YOURS = "You have {count} unfinished jobs already: wait for one of them, or cancel it."
UNKNOWN_JOB = "There is no such job in this session: it never was, belongs to another session, or its time is over."
UNFINISHED_JOB = "The job is {state}: ask for its status until it is done, then fetch it."
NO_FILES = "The job is {state} and has no files: {error}"
UNKNOWN_PRESET = "There is no preset {name!r}: choose {known}."
UNKNOWN_MODEL = "There is no model {name!r}: choose {known}."
MISSING_MODEL = "{title}: {reason} Commands run in the project's folder. Or choose another model."
UNKNOWN_KIND = "There is no kind of job {name!r}: choose {known}."
WRONG_FACE = "The face {text!r} is unknown: give largest, center, a person's number, or x,y@seconds."
WRONG_NUMBER = "{name} is {value!r}: give a number."
UNEXPECTED = "The program failed at this job ({kind}); others go on: see its log, or try other files."
STOPPED = "The app was stopped before this job was done: start it again."
BIG_UPLOAD = "This file is larger than {limit}, which is all that is taken: cut it or encode it smaller."

# words of the command line in the engine's sentences -> the page's
PAGE_WORDS = {
    "use --on-missing-face passthrough, or cut it": "let such frames pass through (Advanced settings), or cut the video",
    "--preflight shows them": "Check first shows them",
    "as --preflight shows them": "as Check first shows them",
    ", or a picture out of the video": "",
}
NO_CHECKPOINT = "The checkpoint {path} does not exist: give the path of a U-Net."
PORT_TAKEN = "Port {port} cannot be used, probably another program has it: give another --port."
NEEDS_LOGIN = "{what} lets others reach the app: add --user NAME (a password is then asked for)."
