"""What the page says, in English and Korean."""

import re

TEXT = {
    "en": {
        "title": "# Image captioning: MobileNetV2 + LSTM",
        "intro": "A small model that says in one sentence what it sees. It knows what its training pictures showed, "
        "and describes anything else as if it were that.",
        "model": "Model",
        "photos": "Photographs: people, dogs, sport and play outdoors",
        "aerial": "Aerial photographs: 21 kinds of land use, such as beach, harbor, airport and parking lot",
        "pictograms": "Pictograms: 60 drawn things, such as anchor, cat and umbrella",
        "pick": "Choose or photograph pictures",
        "pick_info": "or drop or paste them",
        "uploading": "Uploading ...",
        "no_picture": "No picture:",
        "too_large": "Too large:",
        "no_room": "There is no room for it now, try again in a minute:",
        "cut_off": "The upload was cut off, try again:",
        "examples": "Or try one of these:",
        "coffee": "coffee",
        "photographer": "photographer",
        "airplanes": "airplanes",
        "harbor": "harbor",
        "cat": "cat",
        "umbrella": "umbrella",
        "settings": "Settings",
        "beam_size": "Beams",
        "beam_size_info": "Captions that are tried side by side. 1 takes the likeliest word each time; "
        "more find better captions and take longer.",
        "num_best": "Captions for each picture",
        "num_best_info": "The best one first. At most as many as there are beams.",
        "max_len": "Longest caption",
        "max_len_info": "In words, its end counted as one. A longer caption is cut off.",
        "length_penalty": "Liking for long captions",
        "length_penalty_info": "0 prefers short ones, since every word makes a caption less likely; 1 is even.",
        "submit": "Caption",
        "clear": "Clear",
        "captions": "Captions",
        "empty": "Add a picture, or choose an example: its caption appears here.",
        "confidence": "confidence {value:.0%}",
        "confidence_info": "Confidence is the mean probability of a word, as the model sees it. "
        "It says nothing about pictures unlike those that it was trained on.",
        "unlike": "Unlike the training pictures: do not trust this caption.",
        "unlike_info": "More than {value:.0%} of the pictures that the model was checked with are more typical.",
        "surer": "An alternative can have the higher confidence: the caption is the one that agrees most with all "
        "that were found.",
        "alternatives": "Alternatives",
        "copy": "Copy",
        "copied": "Copied",
        "copy_caption": "Copy the caption of {name}",
        "download": "Download all captions:",
        "looked": "Where the model looked for each word: the brighter, the more.",
        "unreadable": "This file is not a picture that can be read. JPEG, PNG, GIF, BMP, WebP and TIFF are, "
        "up to {megapixels:g} megapixels.",
        "gone": "This picture is no longer kept here. Please add it again.",
        "too_many": "At most {count} pictures at once: the others were left out.",
        "too_long": "This took longer than {seconds:g} seconds and was stopped. Try fewer or smaller pictures.",
        "failed": "These pictures could not be captioned. Please try again.",
    },
    "ko": {
        "title": "# MobileNetV2 + LSTM 이미지 캡셔닝",
        "intro": "본 것을 한 문장으로 말하는 작은 모델입니다. 학습한 사진에 있던 것만 알며, "
        "다른 것도 그런 것처럼 설명합니다. 캡션은 영어로 나옵니다.",
        "model": "모델",
        "photos": "일반 사진: 야외의 사람, 개, 운동, 놀이",
        "aerial": "항공 사진: 해변, 항구, 공항, 주차장 등 21가지 토지 이용",
        "pictograms": "그림 문자: 닻, 고양이, 우산 등 60가지 그림",
        "pick": "사진을 고르거나 찍기",
        "pick_info": "또는 여기에 끌어다 놓거나 붙여 넣기",
        "uploading": "올리는 중 ...",
        "no_picture": "사진이 아님:",
        "too_large": "너무 큼:",
        "no_room": "지금은 자리가 없으니 1분 뒤에 다시 올려 주세요:",
        "cut_off": "올리는 중에 끊겼으니 다시 올려 주세요:",
        "examples": "예시 사진으로 해 보기:",
        "coffee": "커피",
        "photographer": "사진사",
        "airplanes": "비행기",
        "harbor": "항구",
        "cat": "고양이",
        "umbrella": "우산",
        "settings": "설정",
        "beam_size": "빔 수",
        "beam_size_info": "나란히 시도하는 캡션의 수입니다. 1이면 매번 가장 그럴듯한 단어를 고르고, "
        "클수록 더 좋은 캡션을 찾지만 오래 걸립니다.",
        "num_best": "사진마다 보여 줄 캡션 수",
        "num_best_info": "가장 좋은 것부터 보여 줍니다. 빔 수보다 많을 수 없습니다.",
        "max_len": "캡션의 최대 길이",
        "max_len_info": "단어 수이며 문장의 끝도 하나로 셉니다. 더 긴 캡션은 잘립니다.",
        "length_penalty": "긴 캡션 선호도",
        "length_penalty_info": "단어가 늘수록 확률이 줄기 때문에 0이면 짧은 캡션을 고르고, 1이면 길이와 무관합니다.",
        "submit": "캡션 만들기",
        "clear": "지우기",
        "captions": "캡션",
        "empty": "사진을 넣거나 예시를 고르면 여기에 캡션이 나타납니다.",
        "confidence": "확신도 {value:.0%}",
        "confidence_info": "확신도는 모델이 보는 단어의 평균 확률입니다. 학습한 사진과 다른 사진에는 의미가 없습니다.",
        "unlike": "학습한 사진들과 다릅니다. 이 캡션을 믿지 마세요.",
        "unlike_info": "모델을 점검한 사진의 {value:.0%} 이상이 더 전형적입니다.",
        "surer": "다른 캡션의 확신도가 더 높을 수 있습니다. 찾은 캡션 전체와 가장 잘 일치하는 것을 고르기 때문입니다.",
        "alternatives": "다른 캡션",
        "copy": "복사",
        "copied": "복사함",
        "copy_caption": "{name}의 캡션 복사",
        "download": "모든 캡션 내려받기:",
        "looked": "단어마다 모델이 본 곳: 밝을수록 더 많이 보았습니다.",
        "unreadable": "읽을 수 있는 사진이 아닙니다. {megapixels:g}메가픽셀 이하의 JPEG, PNG, GIF, BMP, WebP, TIFF만 "
        "읽을 수 있습니다.",
        "gone": "이 사진은 더 이상 보관되어 있지 않습니다. 다시 올려 주세요.",
        "too_many": "한 번에 {count}장까지만 됩니다. 나머지는 제외했습니다.",
        "too_long": "{seconds:g}초가 넘어 멈추었습니다. 더 적거나 작은 사진으로 해 보세요.",
        "failed": "이 사진들의 캡션을 만들지 못했습니다. 다시 시도해 주세요.",
    },
}


# What Gradio 6.31 says to screen readers, but has no words for (they would hear the label's name), or English alone.
GRADIO = {
    "en": {"common.complete": "Done", "common.progress": "Progress"},
    "ko": {
        "common.complete": "완료",
        "common.progress": "진행",
        "status.queue_position": "순서를 기다리는 중: {size}개 중 {position}번째",
    },
}
# What it says in English alone where a request fails.
TOASTS = {
    "ko": {
        "Error": "오류",
        "Close": "닫기",
        "This application is currently busy. Please try again.": "지금은 요청이 많습니다. 잠시 후 다시 시도해 주세요.",
        "Connection to the server was lost. Attempting reconnection...": "서버와 연결이 끊어져 다시 연결하는 중입니다.",
        "Connection errored out.": "서버와 연결이 끊어졌습니다. 잠시 후 다시 시도해 주세요.",
    },
}


def language_of(accept_language):
    """Return "ko" where Korean is the first language of a browser's Accept-Language, else "en".

    Only the first counts, since that is what the browser tells Gradio's own labels and the page's scripts.
    """
    first = re.split("[-,;]", (accept_language or "").strip().lower())[0]
    return first if first in TEXT else "en"
